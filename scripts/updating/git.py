"""Git's plumbing: folders as trees, trees as commits, a merge of two of them."""

import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Tree = dict[str, tuple[str, str]]
"""path → mode and object id"""

_IDENTITY = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in {"NAME": "modelyard", "EMAIL": "modelyard@localhost"}.items()
}


class GitError(Exception):
    """What git said."""


@dataclass(frozen=True)
class Git:
    """A repository and its work tree."""

    folder: Path

    def __call__(
        self, *arguments: str, given: str | None = None, env: Mapping[str, str] | None = None
    ) -> str:
        """
        Raises:
            GitError: git ended with another exit status than 0.
        """
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.folder,
            input=given,
            env=os.environ | (env or {}),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise GitError(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    def commit_of(self, revision: str) -> str | None:
        """The full id of a commit, or None if there is none of that name."""
        try:
            return self("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").strip()
        except GitError:
            return None

    def contains(self, commit: str, ancestor: str) -> bool:
        try:
            self("merge-base", "--is-ancestor", ancestor, commit)
        except GitError:
            return False
        return True

    def tree(self, treeish: str) -> Tree:
        entries = self("ls-tree", "-r", "-z", treeish).split("\0")
        split = [entry.split("\t", 1) for entry in entries if entry]
        return {path: (meta.split()[0], meta.split()[2]) for meta, path in split}

    def tree_of(self, folder: Path) -> Tree:
        """A folder's files, put among this repository's objects. Ignored files, too."""
        with tempfile.TemporaryDirectory() as aside:
            env = {
                "GIT_DIR": self("rev-parse", "--absolute-git-dir").strip(),
                "GIT_WORK_TREE": str(folder),
                "GIT_INDEX_FILE": str(Path(aside) / "index"),
            }
            Git(folder)("-c", "core.fsmonitor=false", "add", "--all", "--force", ".", env=env)
            return self.tree(Git(folder)("write-tree", env=env).strip())

    def write_tree(self, tree: Tree) -> str:
        lines = "".join(f"{mode} {blob}\t{path}\0" for path, (mode, blob) in tree.items())
        with tempfile.TemporaryDirectory() as aside:
            env = {"GIT_INDEX_FILE": str(Path(aside) / "index")}
            self("update-index", "-z", "--index-info", given=lines, env=env)
            return self("write-tree", env=env).strip()

    def write_files(self, treeish: str, folder: Path) -> None:
        """A tree's files, in a folder outside of the work tree."""
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as aside:
            env = {"GIT_INDEX_FILE": str(Path(aside) / "index")}
            self("read-tree", treeish, env=env)
            self("checkout-index", "--all", f"--prefix={folder}/", env=env)

    def commit_tree(self, tree: Tree, message: str, *parents: str) -> str:
        options = [part for parent in parents for part in ("-p", parent)]
        return self(
            "commit-tree", self.write_tree(tree), "-m", message, *options, env=_IDENTITY
        ).strip()

    def merge(self, base: Tree, theirs: Tree, message: str) -> list[str]:
        """Merge what leads from `base` to `theirs` into work tree and index; return the conflicts.

        By path: a rename is never guessed.
        """
        change = self.commit_tree(theirs, message, self.commit_tree(base, "The template as it was"))
        quiet = ["-c", "core.hooksPath=/dev/null", "-c", "advice.mergeConflict=false"]
        try:
            self(
                *quiet, "cherry-pick", "--no-commit", "--allow-empty", "-X", "no-renames", change,
                env=_IDENTITY,
            )  # fmt: skip
        except GitError:
            if not self.unmerged():
                raise
        return self.unmerged()

    def grep(self, text: str) -> list[str]:
        """`file:line` of each tracked line that holds the text."""
        try:
            found = self("grep", "--line-number", "--fixed-strings", "-I", "-e", text)
        except GitError:
            return []  # that is how it says so
        return [":".join(line.split(":", 2)[:2]) for line in found.splitlines()]

    def unmerged(self) -> list[str]:
        listed = self("ls-files", "--unmerged", "-z").split("\0")
        return sorted({entry.split("\t", 1)[1] for entry in listed if entry})
