"""Updates never lose work: what a team edited, deleted, moved or answered."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.version import Version
from support import ROOT, commit, run

from modelyard.cli import script
from modelyard.documents.pins import disagreements, read_answers, read_pin

CALLER = ".github/workflows/ci.yml"


@pytest.fixture(scope="session")
def rendered(render, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("updates") / "flight-delay")


@pytest.fixture
def repo(rendered: Path, tmp_path: Path) -> Path:
    """A model repo at v0.1.0; any clone of its platform updates it."""
    run("git", "clone", "--quiet", rendered, tmp_path / "flight-delay", cwd=tmp_path)
    return tmp_path / "flight-delay"


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path}"
    path.write_text(text.replace(old, new))


def files(wanted: list[str]) -> list[str]:
    return [line.partition(":")[0] for line in wanted]


def status(repo: Path) -> str:
    return run("git", "status", "--short", cwd=repo)


# --- files --------------------------------------------------------------------------


def test_a_file_that_the_platform_drops_stays_where_the_team_edited_it(
    yard: Path, render, tmp_path: Path, update
) -> None:
    for name in ("edited.py", "untouched.py", "renamed.py"):
        (yard / "template" / name).write_text("VALUE = 1\nOTHER = 2\nMORE = 3\n")
    commit(yard, "Three files", tag="v0.1.1")
    repo = render(tmp_path / "flight-delay", source=yard)
    for name in ("edited.py", "renamed.py"):
        append(repo / name, "OURS = 4\n")
    commit(repo, "The team's work")
    run("git", "rm", "--quiet", "edited.py", "untouched.py", cwd=yard / "template")
    run("git", "mv", "renamed.py", "name.py", cwd=yard / "template")
    commit(yard, "Dropped and renamed", tag="v0.2.0")

    done = update(repo, yard)

    assert done.code == 2 and files(done.wanted) == ["edited.py", "renamed.py"]
    assert all((repo / name).read_text().endswith("OURS = 4\n") for name in files(done.wanted))
    assert not (repo / "untouched.py").exists() and (repo / "name.py").exists()
    commit(repo, "Update")
    assert update(repo, yard).code == 0, "said once"


def test_what_the_team_deleted_or_moved_does_not_return(yard: Path, repo: Path, update) -> None:
    run("git", "rm", "--quiet", "tests/test_data.py", "deploy/Dockerfile", "Makefile", cwd=repo)
    run("git", "mv", "bentos/service.py", "bentos/flights.py", cwd=repo)
    commit(repo, "The team's work")
    gone = ("tests/test_data.py", "deploy/Dockerfile", "Makefile", "bentos/service.py")
    append(yard / "template" / "Makefile.jinja", "\n# theirs\n")
    append(yard / "template" / "bentos" / "service.py", "\n# theirs\n")
    commit(yard, "A better platform", tag="v0.2.0")

    done = update(repo, yard)

    assert done.code == 0, done.text
    assert not [name for name in gone if (repo / name).exists()]
    assert "theirs" not in (repo / "bentos" / "flights.py").read_text()
    kept = [line.rpartition(" ")[2] for line in done.told if line.startswith("changed by the")]
    assert kept == ["Makefile", "bentos/service.py"]


def test_a_file_of_the_teams_is_never_replaced(yard: Path, repo: Path, update) -> None:
    (repo / "NOTES.md").write_text("Ours.\n")
    (repo / "tests" / "test_new.py").write_text("OURS = 1\n")
    commit(repo, "The team's work")
    (repo / ".modelyard").mkdir()
    (repo / ".modelyard" / "local.txt").write_text("Known to no commit.\n")
    (yard / "template" / ".modelyard").mkdir()
    for name in ("NOTES.md", "tests/test_new.py", ".modelyard/local.txt"):
        (yard / "template" / name).write_text("Theirs.\n")
    run("git", "add", "--force", "template/.modelyard/local.txt", cwd=yard)
    commit(yard, "New files", tag="v0.2.0")

    done = update(repo, yard)

    # What is seeded is the team's anyhow; of the others, one has to know.
    assert done.code == 2 and files(done.wanted) == [".modelyard/local.txt", "NOTES.md"]
    assert (repo / "NOTES.md").read_text() == "Ours.\n"
    assert (repo / "tests" / "test_new.py").read_text() == "OURS = 1\n"
    assert (repo / ".modelyard" / "local.txt").read_text() == "Known to no commit.\n"


# --- code -----------------------------------------------------------------------------


def test_a_call_of_what_the_platform_no_longer_has_is_named_by_file_and_line(
    yard: Path, repo: Path, update
) -> None:
    """Exit 0 and a train.py whose methods are gone, before."""
    documents = yard / "common" / "modelyard" / "documents"
    (documents / "added.py").write_text(
        "class Added:\n    def kept(self) -> None: ...\n    def gone(self) -> None: ...\n"
    )
    commit(yard, "A class", tag="v0.1.1")
    assert update(repo, yard).code == 0
    (repo / "src" / "flight_delay" / "own.py").write_text(
        "from modelyard.documents.added import Added\n\nadded = Added()\nadded.kept()\nadded.gone()\n"
        "undefined_before_and_after\n"
    )
    commit(repo, "Uses it")
    (documents / "added.py").write_text("class Added:\n    def kept(self, how: int) -> None: ...\n")
    commit(yard, "Another class", tag="v0.2.0")

    done = update(repo, yard)

    assert done.code == 2
    assert [line.split(": ")[0] for line in done.wanted] == [
        "src/flight_delay/own.py:4",
        "src/flight_delay/own.py:5",
    ]


MIGRATION = '''
def migrate(repo, rendered, answers):
    for tree in (repo, rendered):
        old, new = (tree / "src" / "flight_delay" / name for name in ("before.py", "after.py"))
        new.write_text(old.read_text().replace("old_name", "new_name"))
        old.unlink()
        (tree / "untouched.py").unlink()
    lines = (repo / "src/flight_delay/after.py").read_text().splitlines()
    return [("src/flight_delay/after.py", n, "say why") for n, x in enumerate(lines, 1) if "?" in x]
'''


def test_a_migration_moves_and_changes_the_teams_code(
    yard: Path, render, tmp_path: Path, update
) -> None:
    package = yard / "template" / "src" / "{{ package_name }}"
    (package / "before.py").write_text("first = 1\nold_name = 2\nthird = 3\nlast = 4\n")
    (yard / "template" / "untouched.py").write_text("VALUE = 1\n")
    commit(yard, "Before", tag="v0.1.1")
    repo = render(tmp_path / "flight-delay", source=yard)
    edit(repo / "src" / "flight_delay" / "before.py", "first = 1", "first = 10  # ?")
    commit(repo, "The team's work")
    run("git", "mv", "before.py", "after.py", cwd=package)
    (package / "after.py").write_text("first = 1\nnew_name = 2\nthird = 3\nlast = 40\n")
    (yard / "template" / "untouched.py").write_text("VALUE = 2\n")
    (yard / "migrations" / "0002_after.py").write_text(MIGRATION)
    commit(yard, "After", tag="v0.2.0")

    done = update(repo, yard)

    assert done.code == 2 and done.wanted == ["src/flight_delay/after.py:1: say why"]
    merged = (repo / "src" / "flight_delay" / "after.py").read_text()
    assert merged == "first = 10  # ?\nnew_name = 2\nthird = 3\nlast = 40\n"
    assert not (repo / "src" / "flight_delay" / "before.py").exists()
    assert (repo / "untouched.py").read_text() == "VALUE = 2\n", "taken away from both trees"
    commit(repo, "Update")
    commit(yard, "More", tag="v0.2.1")
    assert update(repo, yard).wanted == [], "a migration runs once"


# --- the platform's address and version ------------------------------------------------


def test_a_platform_that_moved(yard: Path, render, tmp_path: Path, update, monkeypatch) -> None:
    old, new = "https://github.com/acme/modelyard.git", "https://git.example.org/ml/platform.git"
    with monkeypatch.context() as at_github:
        at_github.setenv("GIT_CONFIG_COUNT", "1")
        at_github.setenv("GIT_CONFIG_KEY_0", f"url.{yard}.insteadOf")
        at_github.setenv("GIT_CONFIG_VALUE_0", old)
        at_github.setenv("COPIER_CACHE_DIR", str(tmp_path / "cache"))
        repo = render(tmp_path / "flight-delay", source=old)
    assert "uses: acme/modelyard/.github" in (repo / CALLER).read_text()
    append(repo / "Makefile", "\n# ours\n")
    commit(repo, "The team's work")
    commit(yard, "At its new place", tag="v0.2.0")

    done = update(repo, yard, "--from", new, "--data", "repository=ml/platform")

    assert done.code == 0, done.text
    assert read_answers(repo)["_src_path"] == new
    assert read_pin(repo).url == new and read_pin(repo).version == "v0.2.0"
    assert "uses: ml/platform/.github" in (repo / CALLER).read_text()
    assert "still names the platform's old address: README.md:5" in done.told
    commit(repo, "Update")
    commit(yard, "Later", tag="v0.3.0")
    github = "https://github.com/other/platform.git"
    assert update(repo, yard, "--from", github).code == 0
    assert "uses: other/platform/.github" in (repo / CALLER).read_text(), "derived: it follows"


def test_the_old_address_need_not_exist_any_more(yard: Path, render, tmp_path: Path) -> None:
    repo, moved = render(tmp_path / "flight-delay", source=yard), tmp_path / "elsewhere"
    commit(yard, "The last thing here", tag="v0.2.0")
    yard.rename(moved)
    make = ("make", "update", f"VENV={sys.prefix}")
    assert "make update FROM=https://" in run(*make, cwd=repo, check=False)
    assert status(repo) == ""
    run(*make, f"FROM={moved}", cwd=repo)
    assert read_answers(repo)["_src_path"] == str(moved) and not disagreements(repo)
    assert read_pin(repo).url == f"file://localhost{moved}"


def test_an_update_needs_nothing_of_the_repos_own_environment(repo: Path, tmp_path: Path) -> None:
    planned = run("make", "-n", "update", f"VENV={tmp_path / 'none'}", cwd=repo)
    assert "pip install" not in planned
    script = (ROOT / "scripts" / "update.py").read_text()
    block = re.search(r"(?m)^# /// script\n((?:#.*\n)+?)# ///$", script)
    assert block is not None
    needed = tomllib.loads(re.sub(r"(?m)^# ?", "", block[1]))["dependencies"]
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(need in pins for need in needed), "as this repository's own"
    copier = next(Version(n.partition("==")[2]) for n in needed if n.startswith("copier=="))
    wanted = re.search(r'_min_copier_version: "(.+)"', (ROOT / "copier.yml").read_text())
    assert wanted is not None and copier >= Version(wanted[1])


def test_a_repo_past_the_newest_version_follows_the_branch(
    yard: Path, render, tmp_path: Path, update
) -> None:
    before = render(tmp_path / "before", source=yard)
    commit(yard, "A version", tag="v0.2.0")
    commit(yard, "Past it")
    past = tmp_path / "past"
    run(
        "copier", "copy", "--quiet", "--defaults", "--vcs-ref", "HEAD", "--data", "owner=acme",
        "--data", "project_name=flight-delay", yard, past, cwd=tmp_path,
    )  # fmt: skip
    commit(past, "Start from the modelyard template")
    assert str(read_answers(past)["_commit"]).startswith("v0.2.0-1-g")
    assert "nothing to do" in update(past, yard).text
    commit(yard, "Further")

    assert update(past, yard).code == 0
    assert str(read_answers(past)["_commit"]).startswith("v0.2.0-2-g")
    assert update(before, yard).code == 0
    assert read_answers(before)["_commit"] == "v0.2.0", "the newest version, for all others"
    commit(before, "Update")
    back = update(before, yard, "--to", "v0.1.0")
    assert back.code == 1 and "git revert" in back.text


def test_a_tag_that_came_later_makes_no_conflict(yard: Path, render, tmp_path, update) -> None:
    """The answers and the workflows call a commit as it was called then."""
    commit(yard, "No version")
    repo = tmp_path / "repo"
    run(
        "copier", "copy", "--quiet", "--defaults", "--vcs-ref", "HEAD", "--data", "owner=acme",
        "--data", "project_name=flight-delay", yard, repo, cwd=tmp_path,
    )  # fmt: skip
    commit(repo, "Start from the modelyard template")
    run("git", "tag", "v0.1.1", cwd=yard)
    commit(yard, "A version", tag="v0.2.0")
    done = update(repo, yard)
    assert done.code == 0 and read_answers(repo)["_commit"] == "v0.2.0", done.text


def test_a_pin_that_was_left_behind_is_told(yard: Path, repo: Path, update) -> None:
    edit(repo / "pyproject.toml", "modelyard[pipeline,serving,delivery]", "modelyard[pipeline]")
    commit(repo, "The team's work")
    commit(yard, "A better platform", tag="v0.2.0")
    done = update(repo, yard)
    assert done.code == 2 and files(done.wanted) == ["pyproject.toml"]
    run("git", "checkout", "--ours", "pyproject.toml", cwd=repo)
    commit(repo, "Resolved, it seems")
    commit(yard, "An even better platform", tag="v0.3.0")

    found = disagreements(repo)

    line = (repo / "pyproject.toml").read_text().splitlines().index(
        next(x for x in (repo / "pyproject.toml").read_text().splitlines() if "modelyard[" in x)
    )  # fmt: skip
    assert [(each.file, each.line) for each in found][0] == ("pyproject.toml", line + 1)
    assert {each.file for each in found[1:]} == {
        f".github/workflows/{name}.yml" for name in ("ci", "release", "update")
    }
    again = update(repo, yard)
    assert again.code == 1 and again.wanted == [str(each) for each in found]
    check = (script(), "check-pin")
    assert subprocess.run(check, cwd=repo, capture_output=True).returncode == 1
    for target in ("test", "render-check"):
        planned = run("make", "-n", target, f"VENV={sys.prefix}", cwd=repo)
        assert "modelyard check-pin\n" in planned

    # As the answers say: all is well, and the next update works.
    sha = run("git", "rev-parse", "v0.2.0", cwd=yard).strip()
    pin = read_pin(repo)
    edit(repo / "pyproject.toml", f"{pin.sha}\", # {pin.version}", f'{sha}", # v0.2.0')
    assert not disagreements(repo)
    assert subprocess.run(check, cwd=repo, capture_output=True).returncode == 0
    commit(repo, "The pin, too")
    assert files(update(repo, yard).wanted) == ["pyproject.toml"]


# --- answers ----------------------------------------------------------------------------


def test_a_changed_answer_reaches_every_file(yard: Path, repo: Path, update) -> None:
    release = repo / "argo" / "release.yaml"
    append(release, "# ours\n")
    append(repo / "src" / "flight_delay" / "train.py", "# ours\n")
    commit(repo, "The team's work")
    commit(yard, "A better platform", tag="v0.2.0")

    done = update(repo, yard, "--data", "namespace_production=flights", "-d", "ranks=4")

    assert done.code == 0, done.text
    assert "namespace: flights\n" in release.read_text() and release.read_text().endswith("# ours\n")
    assert "flight-delay-production" not in release.read_text()
    assert re.search(r"ranks: 4\b", (repo / "config.yaml").read_text())
    assert read_answers(repo)["namespace_production"] == "flights"
    assert read_answers(repo)["_commit"] == "v0.1.0", "first the answers, then the version"
    assert any("newer version" in line for line in done.told)
    commit(repo, "Answers")
    assert update(repo, yard).code == 0
    assert "namespace: flights\n" in release.read_text()


REFUSED = {
    ("--data", "project_name=arrivals"): "project_name cannot change",
    ("--data", "namspace_production=x"): "asks nothing named namspace_production",
    ("--data", "namespace_production=No_Name"): "namespace_production",
    ("--data", "ranks=4", "--to", "v0.2.0"): "one after the other",
    ("--to", "v9"): "no such revision",
}


def test_what_cannot_be_done_is_refused(yard: Path, repo: Path, update) -> None:
    commit(yard, "A better platform", tag="v0.2.0")
    for arguments, said in REFUSED.items():
        done = update(repo, yard, *arguments)
        assert done.code == 1 and said in done.text, arguments
        assert status(repo) == ""


def test_an_answer_that_the_new_version_refuses_is_not_replaced(
    yard: Path, repo: Path, update
) -> None:
    edit(yard / "copier.yml", "[A-Za-z0-9]([A-Za-z0-9-]{0,37}", "[A-Za-z0-9]([A-Za-z0-9-]{0,1}")
    commit(yard, "Short names only", tag="v0.2.0")

    done = update(repo, yard)

    assert done.code == 1 and "'owner'" in done.text and status(repo) == ""
    assert update(repo, yard, "--data", "owner=ace").code == 0
    commit(repo, "Another owner")
    assert update(repo, yard).code == 0
    assert read_answers(repo)["_commit"] == "v0.2.0" and read_answers(repo)["owner"] == "ace"
