"""What an update does with a file, by who has it and who changed it."""

import pytest

from scripts.updating.git import Tree
from scripts.updating.plan import plan

OLD, OURS, NEW = (("100644", word) for word in ("old", "ours", "new"))
SEEDED = "tests/seeded.py"


def tree(entry: tuple[str, str] | None, path: str) -> Tree:
    return {} if entry is None else {path: entry}


@pytest.mark.parametrize("path", ["wiring.py", SEEDED])
@pytest.mark.parametrize(
    ("base", "ours", "theirs", "listed", "merged"),
    [
        # Given to git: what is in `theirs` and not in `base`, by this path.
        (None, None, NEW, {"added"}, (None, NEW)),
        (None, OURS, NEW, {"taken"}, (None, None)),
        (None, NEW, NEW, set(), (None, None)),
        (OLD, None, OLD, set(), (None, None)),
        (OLD, None, NEW, {"kept_deleted"}, (None, None)),
        (OLD, None, None, set(), (None, None)),
        (OLD, OLD, None, {"removed"}, (OLD, None)),
        (OLD, OURS, None, {"dropped"}, (OLD, OLD)),
        (OLD, OLD, NEW, set(), (OLD, NEW)),
        (OLD, OURS, NEW, set(), (OLD, NEW)),
    ],
)
def test_by_path(path: str, base, ours, theirs, listed: set[str], merged) -> None:
    if path == SEEDED and None not in (base, ours, theirs):
        merged = (base, base)  # the team's: nothing to merge
    if path == SEEDED:
        listed = listed - {"taken"}
    made = plan(
        tree(base, path),
        tree(ours, path),
        tree(theirs, path),
        seeded=SEEDED.__eq__,
        occupied=lambda path: False,
    )
    assert (made.base.get(path), made.theirs.get(path)) == merged
    names = ("added", "removed", "kept_deleted", "dropped", "taken")
    assert {name for name in names if getattr(made, name)} == listed


def test_what_git_does_not_know_is_not_written_over() -> None:
    made = plan({}, {}, {".env": NEW}, seeded=lambda path: False, occupied=lambda path: True)
    assert made.theirs == {} and made.taken == [(".env", "new")]
