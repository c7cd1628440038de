"""The rendered callers and the reusable workflows, run for real.

What needs GitHub itself is where a run ends, and each test says so: its runner's checkout
(act lays the work tree instead), its pull requests, its identity tokens.
"""

import shutil
from pathlib import Path

import pytest
from support import commit, run

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("workflows")]

CI_STEPS = ["Environment", "Style and types", "Tests", "Rendered manifests"]


@pytest.fixture
def repo(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "flight-delay"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path}"
    path.write_text(text.replace(old, new))


# --- model-ci -----------------------------------------------------------------------


def ci(act, repo: Path):
    return act(repo, ".github/workflows/ci.yml", "pull_request")


def test_a_good_model_repo_passes(act, repo: Path) -> None:
    done = ci(act, repo)
    assert done.ok, done.text
    assert {step: done.steps[step] for step in CI_STEPS} == dict.fromkeys(CI_STEPS, "success")
    assert "1 passed" in done.output["Tests"]
    assert "manifests below argo/manifests are up to date" in done.output["Rendered manifests"]


def test_a_failing_test_fails_the_pull_request(act, repo: Path) -> None:
    edit(repo / "tests" / "test_team.py", "config.yaml", "no-such-file")
    done = ci(act, repo)
    assert not done.ok and done.failed == ["Tests"]
    assert "1 failed" in done.output["Tests"]


@pytest.mark.slow
def test_a_lint_fault_fails_the_pull_request(act, repo: Path) -> None:
    (repo / "src" / "flight_delay" / "unused.py").write_text("import os\n")
    done = ci(act, repo)
    assert not done.ok and done.failed == ["Style and types"]
    assert "F401" in done.output["Style and types"]


@pytest.mark.slow
def test_a_stale_rendering_fails_the_pull_request(act, repo: Path) -> None:
    edit(repo / "argo" / "release.yaml", "version: 1", "version: 2")
    done = ci(act, repo)
    assert not done.ok and done.failed == ["Rendered manifests"]
    assert "argo/manifests/production/release/deployment.yaml" in done.text


@pytest.mark.slow
def test_a_new_repo_without_manifests_passes_and_says_so(act, repo: Path) -> None:
    shutil.rmtree(repo / "argo" / "manifests")
    done = ci(act, repo)
    assert done.ok, done.text
    assert "no argo/manifests yet" in done.output["Rendered manifests"]


# --- model-update -------------------------------------------------------------------


@pytest.fixture
def origin(yard: Path, render, tmp_path: Path) -> Path:
    """What GitHub would hold: a bare repository, of the model repo made from v0.1.0."""
    (tmp_path / "made").mkdir()
    repo = render(tmp_path / "made" / "flight-delay", source=yard, example=False)
    run("git", "clone", "--quiet", "--bare", repo, tmp_path / "origin.git", cwd=tmp_path)
    return tmp_path / "origin.git"


@pytest.fixture
def clone(origin: Path, tmp_path: Path) -> Path:
    run("git", "clone", "--quiet", origin, tmp_path / "flight-delay", cwd=tmp_path)
    return tmp_path / "flight-delay"


def release_platform(yard: Path, new: str = "test: setup ## all tests") -> str:
    makefile = yard / "template" / "Makefile.jinja"
    edit(makefile, "test: setup ## the tests", new)
    commit(yard, "A better platform", tag="v0.2.0")
    return run("git", "rev-parse", "HEAD", cwd=yard).strip()


def branches(origin: Path) -> list[str]:
    listed = run("git", "branch", "--format=%(refname:short)", cwd=origin)
    return sorted(listed.split())


def update(act, clone: Path, token: str = "token-of-the-test"):
    secrets = {"UPDATE_TOKEN": token} if token else {}
    return act(clone, ".github/workflows/update.yml", "workflow_dispatch", secrets=secrets)


@pytest.mark.slow
def test_an_update_is_pushed_as_a_branch(act, yard: Path, origin: Path, clone: Path) -> None:
    sha = release_platform(yard)

    done = update(act, clone)

    assert done.steps["Update"] == done.steps["Push the branch"] == "success", done.text
    assert branches(origin) == ["main", "modelyard/update-v0.2.0"]
    files = run("git", "diff", "--name-only", "main", "modelyard/update-v0.2.0", cwd=origin)
    assert {".copier-answers.yml", "Makefile", ".github/workflows/ci.yml"} <= set(files.split())
    caller = run("git", "show", "modelyard/update-v0.2.0:.github/workflows/ci.yml", cwd=origin)
    assert f"model-ci.yml@{sha} # v0.2.0" in caller
    assert "token-of-the-test" not in run("git", "config", "--list", cwd=clone)
    # Here the line is: opening the pull request needs GitHub, and its absence is no success.
    assert not done.ok and done.failed == ["Open it"]

    # The same again: a branch that is there may hold a person's work.
    before = run("git", "rev-parse", "modelyard/update-v0.2.0", cwd=origin)
    again = update(act, clone)
    assert "is there already" in again.output["Push the branch"]
    assert run("git", "rev-parse", "modelyard/update-v0.2.0", cwd=origin) == before


@pytest.mark.slow
def test_a_conflict_fails_the_update_and_names_the_files(
    act, yard: Path, origin: Path, clone: Path
) -> None:
    edit(clone / "Makefile", "test: setup ## the tests", "test: setup ## our tests")
    commit(clone, "The team's own help text")
    release_platform(yard)

    done = update(act, clone)

    assert not done.ok and done.failed == ["Update"]
    assert "::error file=Makefile::Makefile: the platform changed" in done.text
    assert "pull request" not in "".join(done.jobs) and branches(origin) == ["main"]


@pytest.mark.slow
def test_nothing_new_is_a_success_without_a_branch(act, origin: Path, clone: Path) -> None:
    done = update(act, clone)
    assert done.ok, done.text
    assert "has the platform's newest version" in done.output["Update"]
    assert branches(origin) == ["main"]


@pytest.mark.slow
def test_an_update_without_its_token_fails_and_says_what_to_set(
    act, yard: Path, origin: Path, clone: Path
) -> None:
    release_platform(yard)
    done = update(act, clone, token="")
    assert not done.ok and done.failed == ["Push the branch"]
    assert "The platform has v0.2.0, but the secret UPDATE_TOKEN is not set" in done.text
    assert branches(origin) == ["main"]
