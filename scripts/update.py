# /// script
# requires-python = ">=3.11"
# dependencies = ["copier==9.19.1", "pyrefly==1.4.1"]
# ///
"""Bring a model repo to another version of the platform, and lose nothing of the team's.

    uv run --script MODELYARD/scripts/update.py         # in the model repo; MODELYARD: a clone

`make update` of a model repo clones the platform and runs this file of it: its path and its
options are an interface. The template is rendered twice, as the repo has it and as it is now, and
what lies between is merged into the repo (docs/decisions/0060). What a file was before stays in
Git's HEAD; the result is in the work tree and the index, to be looked at and committed.

Exit status: 0: updated, or nothing to do. 1: nothing was changed, and it says why.
2: updated, but the files that it names want a person.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE / "common"))

import yaml  # noqa: E402
from updating import template  # noqa: E402
from updating.calls import broken_calls  # noqa: E402
from updating.git import Git, GitError, Tree  # noqa: E402
from updating.plan import Plan, plan  # noqa: E402

from modelyard.documents import UserError  # noqa: E402
from modelyard.documents.pins import (  # noqa: E402
    ANSWERS,
    PROJECT,
    Finding,
    disagreements,
    read_answers,
    read_pin,
)

MIGRATIONS = "migrations/"
FIXED = ("project_name",)
"""answers that package, images and Kubernetes objects are named by"""


@dataclass
class Update:
    """What is asked for, and what it came to."""

    git: Git
    platform: Git
    recorded: dict[str, Any]
    now: str
    target: str
    address: str
    answers: dict[str, Any]
    """those to render the new template with"""
    wanted: list[Finding] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    @property
    def version(self) -> str:
        return template.describe(self.platform, self.target)

    @property
    def moved(self) -> bool:
        return self.address != self.recorded["_src_path"]


def main() -> int:
    given = _parser().parse_args()
    try:
        update = _prepare(Git(Path.cwd()), Git(HERE), given)
        if update.target == update.now and update.answers == update.recorded and not update.moved:
            print(f"nothing to do: {update.version} is the newest version")
            return 0
        changes = _apply(update)
    except (UserError, GitError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _look_at(update, changes)
    return _report(update, changes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--to", metavar="REVISION", help="a tag or commit; default: the newest")
    parser.add_argument("--from", dest="address", metavar="URL", help="where the platform is now")
    parser.add_argument(
        "-d", "--data", action="append", default=[], metavar="NAME=ANSWER",
        help="a new answer: to a question that this repo has answered, at the version that it has",
    )  # fmt: skip
    return parser


def _prepare(git: Git, platform: Git, given: argparse.Namespace) -> Update:
    """
    Raises:
        UserError: the repo is in no state to be updated, or what is asked for is refused.
    """
    recorded, now = read_answers(git.folder), _commit_now(git, platform)
    asked = dict(_split(text) for text in given.data)
    address = given.address or recorded["_src_path"]
    update = Update(git, platform, recorded, now, now, address, recorded | asked)
    changed = {n for n, answer in asked.items() if n in recorded and recorded[n] != answer}
    if refused := changed.intersection(FIXED):
        raise UserError(
            f"{', '.join(refused)} cannot change: the package, images and objects in clusters are "
            "named by it. Start another repo with `copier copy`, and move your files there"
        )
    if update.moved and "repository" not in asked:
        _follow(update)
    if update.moved:
        changed -= {"repository"}
    if changed and (given.to or update.moved):
        raise UserError("change answers and the version one after the other, a commit between them")
    if not changed:
        update.target = _target(platform, now, given.to)
    elif template.newest(platform, now) != now:
        update.told.append("the answers only; there is a newer version: commit, and update again")
    known = template.questions(platform, update.target)
    if unknown := asked.keys() - known:
        raise UserError(
            f"{update.version} asks nothing named {', '.join(unknown)}; it asks: {', '.join(known)}"
        )
    return update


def _commit_now(git: Git, platform: Git) -> str:
    """The platform's commit that a clean repo was rendered from."""
    if Path(git("rev-parse", "--show-toplevel").strip()) != git.folder.resolve():
        raise UserError("run this in the root of the model repo's git repository")
    if changed := git("status", "--porcelain").splitlines():
        raise UserError(
            "there are changes that no commit holds; commit them (`git add -A`, `git commit`) or "
            "stash them first:\n  " + "\n  ".join(changed)
        )
    if apart := disagreements(git.folder):
        raise UserError(
            "the platform's version is not the same everywhere, so there is nothing to merge "
            "against; give all of them the same commit first:\n  " + "\n  ".join(map(str, apart))
        )
    pin = read_pin(git.folder).sha
    now = platform.commit_of(pin)
    if now is None:
        raise UserError(
            f"{platform.folder} has no commit {pin}, which this repo was rendered from: it is "
            "another platform, or not all of its history (git fetch --unshallow)"
        )
    return now


def _split(text: str) -> tuple[str, Any]:
    name, equals, answer = text.partition("=")
    if not equals or name.startswith("_"):
        raise UserError(f"--data {text}: give NAME=ANSWER")
    return name, yaml.safe_load(answer)


def _target(platform: Git, now: str, revision: str | None) -> str:
    if revision is None:
        return template.newest(platform, now)
    commit = platform.commit_of(revision) or platform.commit_of(f"origin/{revision}")
    if commit is None:
        raise UserError(f"--to {revision}: the platform has no such revision")
    if not platform.contains(commit, now):
        raise UserError(
            f"--to {revision}: it does not come after {now[:12]}, which this repo has. The way "
            "back from an update is `git revert`"
        )
    return commit


def _follow(update: Update) -> None:
    """The platform moved: so does the repository whose workflows are called, if it was the same."""
    was, repository = template.expanded(update.recorded["_src_path"]), update.answers["repository"]
    if was.removesuffix(".git").endswith(f"/{repository}"):
        del update.answers["repository"]
    else:
        update.told.append(
            f"the workflows of {repository} are called as before (another: --data repository=…)"
        )


def _apply(update: Update) -> Plan:
    """Render, plan and merge; the work tree is as it was if anything fails."""
    git, platform, source = update.git, update.platform, update.recorded["_src_path"]
    with tempfile.TemporaryDirectory() as aside:
        old, new, own = (Path(aside) / name for name in ("old", "new", "own"))
        template.render(
            platform, update.now, update.recorded["_commit"], source, update.recorded, old
        )
        try:
            template.render(platform, update.target, None, update.address, update.answers, new)
        except UserError as error:
            raise UserError(
                f"{update.version} does not take the answers in {ANSWERS}. Give another one, at "
                f"the version that you have, with --data NAME=ANSWER:\n{error}"
            ) from None
        ours = head = git.tree("HEAD")
        if migrations := _migrations(update, Path(aside) / "migrations"):
            ours = _migrated(update, migrations, ours, old, own)
        base, theirs = git.tree_of(old), git.tree_of(new)
    base[ANSWERS] = ours[ANSWERS]  # Copier's alone
    patterns = template.seeded(platform, update.now, update.target)
    # At the same version it is answers that changed, and what was seeded has to follow them.
    same = update.now == update.target
    made = plan(
        base, ours, theirs,
        seeded=lambda path: not same and patterns.match_file(path),
        occupied=lambda path: path not in head and (git.folder / path).exists(),
    )  # fmt: skip
    _merge(update, ours, made)
    return made


def _migrations(update: Update, into: Path) -> list[ModuleType]:
    """Those that came to the platform between the repo's version and the new one, in order."""
    platform = update.platform

    def listed(commit: str) -> set[str]:
        names = platform("ls-tree", "--name-only", commit, MIGRATIONS).split()
        return {name for name in names if name.endswith(".py")}

    into.mkdir()
    modules = []
    for name in sorted(listed(update.target) - listed(update.now)):
        path = into / Path(name).name
        path.write_text(platform("show", f"{update.target}:{name}"))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        modules.append(module)
    return modules


def _migrated(
    update: Update, migrations: list[ModuleType], ours: Tree, old: Path, own: Path
) -> Tree:
    """The team's tree, and on disk the old rendering, after the migrations."""
    update.git.write_files("HEAD", own)
    before = update.git.tree_of(own)
    for migration in migrations:
        update.wanted += [Finding(*each) for each in migration.migrate(own, old, update.answers)]
    after = update.git.tree_of(own)
    # What no migration touched is as Git has it, a submodule for instance.
    kept = {path: entry for path, entry in ours.items() if before.get(path) == after.get(path)}
    return kept | {path: entry for path, entry in after.items() if before.get(path) != entry}


def _merge(update: Update, ours: Tree, made: Plan) -> None:
    git = update.git
    try:
        if ours != git.tree("HEAD"):
            git("read-tree", "-m", "-u", "HEAD", git.write_tree(ours))
        conflicts = git.merge(made.base, made.theirs, f"Update the platform to {update.version}")
    except BaseException:
        git("reset", "--quiet", "--hard", "HEAD")
        raise
    # A migration says more of a file than that it was dropped.
    named = {finding.file for finding in update.wanted}
    said = {
        "the platform changed the lines that you changed; resolve what stands between <<<<<<< and "
        ">>>>>>>": conflicts,
        "the platform no longer has this file, which you had edited; it stays as it is, and "
        "nothing of the platform's may use it": [p for p in made.dropped if p not in named],
    }
    update.wanted += [Finding(path, None, what) for what, paths in said.items() for path in paths]
    update.wanted += [
        Finding(path, None, f"the platform has a file of this name now (git show {blob[:12]}); "
                "yours stays")
        for path, blob in made.taken
    ]  # fmt: skip


def _look_at(update: Update, made: Plan) -> None:
    """What the merged repo says of itself: its pins, and calls of what the platform lacks now."""
    git, conflicts = update.git, update.git.unmerged()
    try:
        update.wanted += [] if conflicts else disagreements(git.folder)
    except UserError as error:
        update.wanted.append(Finding(PROJECT, None, str(error)))
    listed = [name for name in git("ls-files", "-z", "*.py").split("\0") if name]
    passed = {*conflicts, *made.dropped}  # a person has to look at all of these
    files = [name for name in dict.fromkeys(listed) if name not in passed]
    found = broken_calls(update.platform, update.now, update.target, git.folder, files)
    if found is None:
        why = "pyrefly is not installed, or failed"
        update.told.append(f"calls of the platform were not checked: {why}")
    named = {(finding.file, finding.line) for finding in update.wanted}
    update.wanted += [Finding(*problem) for problem in found or [] if problem[:2] not in named]
    if update.moved:
        old = template.expanded(update.recorded["_src_path"]).removesuffix(".git")
        named = git.grep(old)
        update.told += [f"still names the platform's old address: {place}" for place in named]


def _report(update: Update, made: Plan) -> int:
    was, answers = update.recorded, read_answers(update.git.folder)
    print(f"modelyard: {was['_commit']} → {answers['_commit']}")
    new = [name for name in answers if name not in was]
    changed = [n for n in answers if n in was and answers[n] != was[n] and n != "_commit"]
    before = update.git.tree("HEAD")
    fresh = [path for path in made.added if path in before]  # by a migration
    told = [
        *(f"new: {path}" for path in made.added if path not in before),
        *(
            f"the template's now, since you never edited it: {path}"
            for path in fresh
            if made.theirs[path] != before[path]
        ),
        *(f"removed, since you never edited it: {path}" for path in made.removed),
        *(f"changed by the platform, deleted by you, and stays so: {p}" for p in made.kept_deleted),
        *(f"new question: {n}: {answers[n]!r} (another: --data {n}=…)" for n in new),
        *(f"no longer asked: {name}" for name in was if name not in answers),
        *(f"another answer: {name}: {answers[name]!r}" for name in changed),
        *update.told,
    ]
    print("".join(f"  {line}\n" for line in told), end="")
    if update.wanted:
        print("These want you:", file=sys.stderr)
        print("\n".join(f"  {finding}" for finding in update.wanted), file=sys.stderr)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for file, line, what in update.wanted:
            print(f"::error file={file}{f',line={line}' if line else ''}::{file}: {what}")
    print(
        "Look at it (git diff --staged; make test), then: git add -A && git commit -m "
        f"'Update the platform to {answers['_commit']}'. To leave it: git reset --hard"
    )
    return 2 if update.wanted else 0


if __name__ == "__main__":
    sys.exit(main())
