"""The outcome of a release, written back to Git: a branch with the way back and the evidence.

Never to the branch that it starts from: a person, or a rule of the repository, merges it. The
branch is named by the release, so a second call finds it and does nothing.
"""

import json
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from modelyard.delivery.policy import RELEASE_FILE, Kubernetes, load_release, project_name
from modelyard.delivery.step_interface import CREDENTIALS_VARIABLE
from modelyard.documents import ReleaseEvent, UserError

_EVIDENCE = Path("argo/releases")
_MANIFESTS = Path("argo/manifests")
_TIMEOUT_S = 120


def write_back(repository: str | None, environment: str, events: Sequence[ReleaseEvent]) -> str:
    """Push the branch of a release that was rolled back or held; what was done, for people.

    Args:
        events: of the release.

    Raises:
        UserError: it is undecided, or git refuses.
    """
    last = events[-1]
    if last.decision is None:
        raise UserError(
            f"the release of version {last.candidate} is undecided: there is no outcome to write "
            "back; run `modelyard release step rollback` first"
        )
    if last.decision in ("promoted", "bootstrapped"):
        return f"version {last.candidate}: {last.decision}, as Git has it: nothing to write back"
    if repository is None:
        return f"{RELEASE_FILE} has no `repository`: the outcome is not written back to Git"
    branch = f"modelyard/{environment}-{last.release}"
    with tempfile.TemporaryDirectory() as folder:
        git = Git(Path(folder))
        if git("ls-remote", "--", repository, f"refs/heads/{branch}"):
            return f"{branch} is there already: the outcome was written back"
        git("clone", "--quiet", "--no-tags", "--", repository, str(git.work))
        title = _commit(git, environment, events)
        git("push", "--quiet", "origin", f"HEAD:refs/heads/{branch}", cwd=git.work)
    return f"pushed {branch}: {title}"


class Git:
    """Runs git; the credentials are in files, so that no argument and no log has them.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self._environment = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
        if given := os.environ.get(CREDENTIALS_VARIABLE):
            self._environment |= _credentials(Path(given), folder)

    def __call__(self, *arguments: str, cwd: Path | None = None, **environment: str) -> str:
        """What git prints.

        Raises:
            UserError: it fails, or takes too long.
        """
        # A hook of the repository is not ours to run.
        command = ["git", "-c", "core.hooksPath=/dev/null", *arguments]
        try:
            done = subprocess.run(
                command,
                cwd=cwd,
                env=self._environment | environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
            )
        except FileNotFoundError:
            raise UserError("there is no git here: install it") from None
        except subprocess.TimeoutExpired:
            raise UserError(f"git {arguments[0]}: no answer within {_TIMEOUT_S} s") from None
        if done.returncode:
            raise UserError(f"git {arguments[0]}: {done.stderr.strip()}")
        return done.stdout


def _credentials(given: Path, folder: Path) -> dict[str, str]:
    """Git's environment: a program that prints the token when git asks, or SSH's options."""
    if (given / "token").is_file():
        program = folder / "askpass"
        name = given / "username"
        user = name.read_text().strip() if name.is_file() else "x-access-token"
        token = shlex.quote(str(given / "token"))
        program.write_text(
            f'#!/bin/sh\ncase "$1" in\nUsername*) echo {shlex.quote(user)} ;;\n'
            f"*) cat {token} ;;\nesac\n"
        )
        program.chmod(0o700)
        return {"GIT_ASKPASS": str(program)}
    if (given / "ssh-privatekey").is_file():
        if not (given / "known_hosts").is_file():
            raise UserError(f"{given}: known_hosts is missing beside ssh-privatekey")
        key, hosts = (shlex.quote(str(given / each)) for each in ("ssh-privatekey", "known_hosts"))
        options = "-o BatchMode=yes -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes"
        return {"GIT_SSH_COMMAND": f"ssh -i {key} -o UserKnownHostsFile={hosts} {options}"}
    return {}


def _commit(git: Git, environment: str, events: Sequence[ReleaseEvent]) -> str:
    """Commit the way back and the evidence in the clone; the commit's title."""
    last = events[-1]
    back = _go_back(git, last)
    path = git.work / _EVIDENCE / f"{environment}-{last.release}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(evidence(environment, events), indent=1) + "\n")
    what = (
        f"version {last.candidate} was {(last.decision or '').replace('_', ' ')} in {environment}"
    )
    title = f"Back to version {last.stable}: {what}" if back else what.capitalize()
    message = git.work.parent / "message"
    message.write_text(f"{title}\n\n{last.reason}\n\nEvidence: {path.relative_to(git.work)}\n")
    git("add", "--all", cwd=git.work)
    # Made again by another pod it is the same commit.
    made = f"{int(last.time)} +0000"
    author = {
        f"GIT_{role}_{key}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in
        {"NAME": "modelyard", "EMAIL": "modelyard@noreply.invalid", "DATE": made}.items()
    }  # fmt: skip
    git("commit", "--quiet", "--no-gpg-sign", "--file", str(message), cwd=git.work, **author)
    return title


def _go_back(git: Git, last: ReleaseEvent) -> bool:
    """Let argo/release.yaml ask for stable again; False if it asks for another version by now."""
    path = git.work / RELEASE_FILE
    if last.stable is None or not path.is_file():
        return False
    text = path.read_text()
    if _top(text).get("version") != last.candidate:
        return False
    path.write_text(reverted(text, last.stable, _digest(git, last.stable)))
    release = load_release(path)  # a person must not get a broken file to merge
    if (git.work / _MANIFESTS).is_dir():
        from modelyard.delivery.manifests.render import write_manifests

        names = [name for name, e in release.environments.items() if isinstance(e, Kubernetes)]
        model = project_name(git.work / "pyproject.toml")
        write_manifests(git.work / _MANIFESTS, release, path.read_text(), names, model)
    return True


def reverted(text: str, version: int, digest: str | None) -> str:
    """argo/release.yaml with another version and its digest; all else, comments too, as it was."""
    text = re.sub(r"(?m)^version:[^\S\n]*\d+", f"version: {version}", text)
    text = re.sub(r"(?m)^digest:.*\n", "", text)
    if digest:
        text = re.sub(r"(?m)^image:.*\n", lambda found: f"{found[0]}digest: {digest}\n", text)
    return text


def _digest(git: Git, version: int) -> str | None:
    """That argo/release.yaml had when it last asked for a version."""
    for commit in git("log", "--format=%H", "--", str(RELEASE_FILE), cwd=git.work).split():
        try:
            found = _top(git("show", f"{commit}:{RELEASE_FILE}", cwd=git.work))
        except UserError:
            continue  # the commit removed it
        if found.get("version") == version:
            return found.get("digest")
    return None


def _top(text: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def evidence(environment: str, events: Sequence[ReleaseEvent]) -> dict[str, Any]:
    """What a reviewer wants to see: each turn of the release, its reason, and the verdicts."""
    first, last = events[0], events[-1]
    turns = [first] + [
        after
        for before, after in pairwise(events)
        if (before.phase, before.weight) != (after.phase, after.weight)
    ]
    return {
        "release": last.release,
        "environment": environment,
        "version": last.candidate,
        "stable": last.stable,
        "digest": first.digest,
        "policy_hash": first.policy_hash,
        "workflow": first.workflow,
        "decision": last.decision,
        "reason": last.reason,
        "turns": [_turn(event) for event in turns],
    }


def _turn(event: ReleaseEvent) -> dict[str, Any]:
    counts = (event.evidence or {}).get("counts") or {}
    arms = {
        arm: {key: counts[arm].get(key, 0) for key in ("requests", "failures")}
        for arm in ("stable", "candidate")
        if counts.get(arm)
    }
    return {
        "time": datetime.fromtimestamp(event.time, UTC).isoformat(timespec="milliseconds"),
        "phase": event.phase,
        "weight": event.weight,
        "reason": event.reason,
        **arms,
        "verdicts": list(event.verdicts),
    }
