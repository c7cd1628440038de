"""The outcome of a release in Git: real git and bare repositories, over HTTP with a token, too."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from argo.rendered import MODEL
from argo.rolled_back import BRANCH, DIGEST, RELEASE, VERDICT, branches, event
from git_server import served
from support import commit, run

from modelyard.delivery import write_back as module
from modelyard.delivery.step_interface import CREDENTIALS_VARIABLE
from modelyard.delivery.write_back import reverted, write_back
from modelyard.documents import UserError

TOKEN = "of-the-test-4f1d"


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A bare repository whose main went from version 1 to version 2."""
    work = tmp_path / "origin"
    shutil.copytree(MODEL, work)
    policy = work / "argo" / "release.yaml"
    text = policy.read_text()
    policy.write_text(reverted(text, 1, DIGEST).replace("version: 1", "version: 1  # the first"))
    commit(work, "Version 1")
    policy.write_text(text)
    commit(work, "Version 2")
    bare = tmp_path / "origin.git"
    run("git", "clone", "--quiet", "--bare", work, bare, cwd=tmp_path)
    return bare


def shown(origin: Path, path: str, branch: str = BRANCH) -> str:
    return run("git", "show", f"{branch}:{path}", cwd=origin)


def test_a_rollback_becomes_a_branch(origin: Path) -> None:
    before = run("git", "rev-parse", "main", cwd=origin)
    line = write_back(str(origin), "production", RELEASE)
    assert line == f"pushed {BRANCH}: Back to version 1: version 2 was rolled back in production"
    assert branches(origin) == ["main", BRANCH]
    assert run("git", "rev-parse", "main", cwd=origin) == before, "never main"

    # The way back is one line and its digest; all else of the file stays.
    changed = run(
        "git", "diff", "--unified=0", "main", BRANCH, "--", "argo/release.yaml", cwd=origin
    )
    lines = [x for x in changed.splitlines() if x[:1] in "+-" and x[:3] not in ("+++", "---")]
    old = next(x for x in lines if x.startswith("-digest"))
    assert sorted(lines) == sorted(["-version: 2", "+version: 1", old, f"+digest: {DIGEST}"])
    # The manifests are rendered anew, so that the pull request's checks pass.
    deployment = yaml.safe_load(shown(origin, "argo/manifests/production/release/deployment.yaml"))
    assert deployment["metadata"]["name"] == "flight-delay-v1"
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == f"ghcr.io/acme/flight-delay@{DIGEST}"

    told = json.loads(shown(origin, "argo/releases/production-20261121T050000-v2.json"))
    assert told["decision"] == "rolled_back" and told["stable"] == 1
    assert told["digest"] == DIGEST
    assert [turn["phase"] for turn in told["turns"]] == ["preflight", "canary", "rollback", "done"]
    assert told["turns"][2]["verdicts"] == [VERDICT]
    assert told["turns"][2]["candidate"] == {"requests": 90, "failures": 9}
    message = run("git", "log", "-1", "--format=%B", BRANCH, cwd=origin)
    assert "errors: 9 of 90 failed" in message and "Evidence: argo/releases/" in message


def test_a_second_time_does_nothing(origin: Path) -> None:
    write_back(str(origin), "production", RELEASE)
    first = run("git", "rev-parse", BRANCH, cwd=origin)
    assert "is there already" in write_back(str(origin), "production", RELEASE)
    # A person's own commits on the branch stay.
    assert run("git", "rev-parse", BRANCH, cwd=origin) == first


def test_another_release_has_another_branch(origin: Path) -> None:
    write_back(str(origin), "production", RELEASE)
    again = [e.model_copy(update={"release": "20261122T050000-v2"}) for e in RELEASE]
    write_back(str(origin), "production", again)
    assert len(branches(origin)) == 3


def test_two_pods_that_push_at_once(origin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loser's push is refused, and says so; its retry finds the branch."""
    made = module._commit

    def lose(*arguments: Any) -> str:
        monkeypatch.setattr(module, "_commit", made)
        other = [e.model_copy(update={"reason": "another"}) for e in RELEASE]
        write_back(str(origin), "production", other)
        return made(*arguments)

    monkeypatch.setattr(module, "_commit", lose)
    with pytest.raises(UserError, match="(?s)git push: .*rejected"):
        write_back(str(origin), "production", RELEASE)
    assert "is there already" in write_back(str(origin), "production", RELEASE)


def test_main_that_has_moved_on_is_not_taken_back(origin: Path, tmp_path: Path) -> None:
    work = tmp_path / "person"
    run("git", "clone", "--quiet", origin, work, cwd=tmp_path)
    policy = work / "argo" / "release.yaml"
    policy.write_text(policy.read_text().replace("version: 2", "version: 3"))
    commit(work, "Version 3")
    run("git", "push", "--quiet", "origin", "main", cwd=work)
    line = write_back(str(origin), "production", RELEASE)
    assert line == f"pushed {BRANCH}: Version 2 was rolled back in production"
    assert shown(origin, "argo/release.yaml") == policy.read_text()


def test_the_first_version_has_no_way_back(origin: Path) -> None:
    first = [e.model_copy(update={"stable": None}) for e in RELEASE]
    assert "Version 2 was rolled back" in write_back(str(origin), "production", first)
    assert "version: 2" in shown(origin, "argo/release.yaml")


@pytest.mark.parametrize(
    ("decision", "repository", "line"),
    [
        ("promoted", "nowhere", "version 2: promoted, as Git has it: nothing to write back"),
        ("bootstrapped", "nowhere", "nothing to write back"),
        ("rolled_back", None, "argo/release.yaml has no `repository`"),
    ],
)
def test_nothing_to_do(decision: str, repository: str | None, line: str) -> None:
    assert line in write_back(repository, "production", [event(0, decision=decision)])


def test_an_undecided_release_has_no_outcome(origin: Path) -> None:
    with pytest.raises(UserError, match="version 2 is undecided"):
        write_back(str(origin), "production", RELEASE[:-1])
    assert branches(origin) == ["main"]


def test_no_such_repository(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="(?s)git ls-remote: .*does not"):
        write_back(str(tmp_path / "none.git"), "production", RELEASE)


@pytest.fixture
def no_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git as in a pod: nobody's own configuration."""
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def test_a_token_is_given_to_git_alone(
    origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_helper: None
) -> None:
    run("git", "config", "http.receivepack", "true", cwd=origin)
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv(CREDENTIALS_VARIABLE, str(secret))
    commands: list[list[str]] = []
    real = subprocess.run

    def recorded(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return real(command, **options)

    with served(origin.parent, TOKEN) as (url, users):
        monkeypatch.setattr(module.subprocess, "run", recorded)
        assert write_back(f"{url}/origin.git", "production", RELEASE).startswith("pushed")
        assert BRANCH in branches(origin) and set(users) == {"x-access-token"}
        assert TOKEN not in json.dumps(commands)

        (secret / "token").write_text("of-someone-else")
        with pytest.raises(
            UserError, match="(?s)git ls-remote: .*Authentication failed"
        ) as refused:
            write_back(f"{url}/origin.git", "production", RELEASE)
        assert "of-someone-else" not in str(refused.value)
        monkeypatch.delenv(CREDENTIALS_VARIABLE)
        with pytest.raises(UserError, match="git ls-remote: "):
            write_back(f"{url}/origin.git", "production", RELEASE)


def test_a_deploy_key_is_given_to_ssh_alone(
    origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_helper: None
) -> None:
    """`ssh` is a stand-in that notes its options and runs what it is to run over there, here."""
    secret, programs = tmp_path / "a secret", tmp_path / "bin"
    secret.mkdir(), programs.mkdir()
    (secret / "ssh-privatekey").write_text("the key")
    monkeypatch.setenv(CREDENTIALS_VARIABLE, str(secret))
    with pytest.raises(UserError, match="known_hosts is missing"):
        write_back("git@example.com:acme/model.git", "production", RELEASE)
    (secret / "known_hosts").write_text("example.com ssh-ed25519 AAAA")
    log = tmp_path / "log"
    ssh = programs / "ssh"
    ssh.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >> {log}\nfor last; do :; done\n'
        f'eval "$(printf %s "$last" | sed "s#acme/model.git#{origin}#")"\n'
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    line = write_back("git@example.com:acme/model.git", "production", RELEASE)
    assert line.startswith("pushed") and BRANCH in branches(origin)
    options = log.read_text().splitlines()
    assert str(secret / "ssh-privatekey") in options
    assert "StrictHostKeyChecking=yes" in options and "BatchMode=yes" in options
    assert "the key" not in log.read_text()
