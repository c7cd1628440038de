"""The commands in the templates are those of the real `modelyard`."""

import re
import signal
from contextlib import ExitStack
from pathlib import Path

import click
import pytest
import typer.main
from argo.entry import modelyard
from argo.rendered import MODEL, rendered, walk

from modelyard.cli import exit_on_sigterm
from modelyard.delivery.commands.app import app


def parse(command: list[str]) -> str:
    """Parse as the entry point does, up to the call; the path of the command it would call.

    Raises:
        click.UsageError: the command line is refused.
    """
    assert command[0] == "modelyard"
    found, rest = typer.main.get_command(app), command[1:]
    context = found.make_context("modelyard", list(rest))
    while isinstance(found, click.Group):
        rest = [*context._protected_args, *context.args]
        name, child, rest = found.resolve_command(context, rest)
        assert child is not None
        found, context = child, child.make_context(name, rest, parent=context)
    return context.command_path


@pytest.mark.parametrize(
    ("environment", "steps"),
    [("staging", set()), ("production", {"watch"}), ("ramped", set())],
)
def test_every_command_is_accepted(tmp_path: Path, environment: str, steps: set[str]) -> None:
    _, commands, _ = walk(tmp_path, environment, {"promote": [2]})  # with the exit handler's
    paths = [parse(command) for command in commands]
    assert set(paths[:-1]) == {"modelyard release step"}
    assert paths[-1] == "modelyard release write-back"
    taken = {command[3] for command in commands[:-1]}
    assert taken == {"deploy", "shadow", "canary", "promote", "rollback"} | steps


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["shadow", "--candidate", "2"], "which environment? --env local, staging, production, "),
        (["shadow", "--env", "prod"], "no environment 'prod'"),
        (["shadow", "--env", "staging", "--candidate", "x"], "give `latest` or a version number"),
        (["deploy", "--env", "staging", "--digest", "latest"], "give sha256: and 64 digits"),
        (["deploy", "--env", "staging", "--digest", f"sha256:{'0' * 64} "], "give sha256: and 64"),
    ],
)
def test_a_step_that_says_too_little(arguments: list[str], problem: str) -> None:
    done = modelyard(MODEL, "release", "step", *arguments)
    assert (done.returncode, problem in done.stderr) == (1, True), done.stderr


def test_a_policy_object_asks_for_no_version(tmp_path: Path) -> None:
    """And one that is not there says how it gets there."""
    data = rendered("staging", "policy")["data"]
    missing = modelyard(tmp_path, "release", "step", "deploy", "--candidate", "2")
    assert missing.returncode == 1 and "ConfigMap modelyard-release" in missing.stderr
    (tmp_path / "argo").mkdir()
    (tmp_path / "pyproject.toml").write_text(data["pyproject.toml"])
    (tmp_path / "argo" / "release.yaml").write_text(data["release.yaml"])
    unnamed = modelyard(tmp_path, "release", "step", "deploy")
    assert unnamed.returncode == 1 and "give --candidate" in unnamed.stderr
    strict = modelyard(tmp_path, "render")
    assert strict.returncode == 1 and "version: Field required" in strict.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--candidate", "--model-version"),
        ("--digest", "--hash"),
        ("--workflow", "--run"),
        ("canary", "weights"),
        ("step", "steps"),
    ],
)
def test_a_renamed_part_is_caught(tmp_path: Path, old: str, new: str) -> None:
    _, commands, _ = walk(tmp_path, "staging")
    with pytest.raises(click.UsageError, match=re.escape(new)):
        for command in commands:
            parse([new if part == old else part for part in command])


def test_a_pod_that_is_asked_to_go_lets_go_of_the_lock() -> None:
    """Its exit code is none of a decision's, so the node is tried again."""
    let_go: list[bool] = []
    with pytest.raises(SystemExit) as ended, exit_on_sigterm(), ExitStack() as lock:
        lock.callback(let_go.append, True)
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143 and let_go
