"""What an update does with each file: by three trees, before git merges lines.

`base` is the template as this repo has it, `theirs` as it is now, `ours` the team's. Git's merge
of the three would already keep most; what it would ask about, or do to a file that is the team's,
is decided here, so that only lines are left that both sides changed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from .git import Tree


@dataclass
class Plan:
    """The trees to merge, and what becomes of which file."""

    base: Tree
    theirs: Tree
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    kept_deleted: list[str] = field(default_factory=list)
    """deleted by the team, changed by the platform"""
    dropped: list[str] = field(default_factory=list)
    """edited by the team, no longer in the template"""
    taken: list[tuple[str, str]] = field(default_factory=list)
    """path and blob of what is new in the template where the team has a file of that name"""


def plan(
    base: Tree,
    ours: Tree,
    theirs: Tree,
    seeded: Callable[[str], bool],
    occupied: Callable[[str], bool],
) -> Plan:
    """
    Args:
        seeded: whether a path is the team's once it is there.
        occupied: whether something lies there that git does not know.
    """
    made = Plan(dict(base), dict(theirs))
    for path in sorted(base.keys() | theirs.keys()):
        was, own, new = base.get(path), ours.get(path), theirs.get(path)
        if was is None and own is None and not occupied(path):
            made.added.append(path)
        elif was is None:
            _, blob = made.theirs.pop(path)  # the team's own file stands there
            if own != new and not seeded(path):
                made.taken.append((path, blob))
        elif own is None:
            made.base.pop(path)  # what the team deleted stays deleted
            made.theirs.pop(path, None)
            if new not in (was, None):
                made.kept_deleted.append(path)
        elif new is None and own == was:
            made.removed.append(path)
        elif new is None:
            made.theirs[path] = was
            made.dropped.append(path)
        elif seeded(path):
            made.theirs[path] = was
    return made
