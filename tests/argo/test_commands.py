"""The commands in the templates are those of the real `modelyard`."""

import re
import signal
from contextlib import ExitStack

import click
import pytest
import typer.main
from argo.entry import modelyard
from argo.test_workflow import MODEL, walk

from modelyard.delivery import cli
from modelyard.delivery.cli import app


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
    [("staging", {"canary"}), ("production", {"canary", "watch"}), ("ramped", {"ramp"})],
)
def test_every_command_is_accepted(environment: str, steps: set[str]) -> None:
    _, commands, _ = walk(environment, {"promote": [2]})  # with the exit handler's
    paths = [parse(command) for command in commands]
    assert set(paths[:-1]) == {"modelyard release step"}
    assert paths[-1] == "modelyard release write-back"
    assert {command[3] for command in commands} >= {"preflight", "promote", "rollback"} | steps


@pytest.mark.parametrize(
    ("environment", "arguments", "problem"),
    [
        ("staging", ["canary", "--weight", "7"], "--weight 7: the policy's steps are 50, 100"),
        ("staging", ["canary"], "--weight None: the policy's steps are 50, 100"),
        ("staging", ["ramp"], "the policy has fixed steps: run step canary with --weight"),
        ("ramped", ["canary", "--weight", "5"], "the policy has a ramp: run step ramp instead"),
        ("ramped", ["shadow", "--weight", "5"], "--weight belongs to step canary, not to shadow"),
        ("production", ["watch"], "step watch needs it"),
        ("production", ["promote", "--workflow", "x"], "--workflow belongs to step watch"),
    ],
)
def test_a_step_that_the_policy_has_not(
    environment: str, arguments: list[str], problem: str
) -> None:
    done = modelyard(MODEL, "release", "step", *arguments, "--env", environment)
    assert (done.returncode, problem in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--env", "--environment"),
        ("--weight", "--share"),
        ("preflight", "check"),
        ("step", "steps"),
    ],
)
def test_a_renamed_part_is_caught(old: str, new: str) -> None:
    _, commands, _ = walk("staging", {})
    with pytest.raises(click.UsageError, match=re.escape(new)):
        for command in commands:
            parse([new if part == old else part for part in command])


def test_a_pod_that_is_asked_to_go_lets_go_of_the_lock() -> None:
    """Its exit code is none of a decision's, so the node is tried again."""
    let_go: list[bool] = []
    with pytest.raises(SystemExit) as ended, cli._ended(), ExitStack() as lock:
        lock.callback(let_go.append, True)
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143 and let_go
