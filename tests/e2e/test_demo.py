"""The whole walk, as `make demo` goes it, and what a team finds in the repo afterwards."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from delivery.page import Page
from support import commit, run

from modelyard.documents import ReleaseEvent, releases, verify_package

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


@pytest.fixture(scope="session")
def demo(platform: Path) -> Path:
    """The demo's folder, once it is through. It exits 0 only after the right decisions."""
    commit(platform, "Work since the newest tag")
    path = f"{Path(sys.executable).parent}:{Path('/usr/bin')}:{Path('/bin')}"
    print(run("bash", "scripts/demo.sh", cwd=platform, PATH=path))
    return platform / "build" / "demo"


@pytest.fixture(scope="session")
def repo(demo: Path) -> Path:
    return demo / "flight-delay"


@pytest.fixture(scope="session")
def summary(demo: Path) -> dict[str, Any]:
    return json.loads((demo / "summary.json").read_text())


def test_three_releases_end_as_they_should(summary: dict[str, Any]) -> None:
    decisions = [(r["version"], r["decision"]) for r in summary["releases"]]
    assert decisions == [(1, "bootstrapped"), (2, "promoted"), (3, "rolled_back")]
    assert summary["rows"] == 336_776 and summary["ranks"] == 2
    assert summary["stable_downtime_s"] == 0
    assert set(summary["seconds"]) == {"train", "release"}


def test_the_demo_is_of_this_checkouts_head(platform: Path, repo: Path) -> None:
    """Not of its newest tag, which is what Copier takes by itself."""
    head = run("git", "rev-parse", "HEAD", cwd=platform).strip()
    assert head in (repo / "pyproject.toml").read_text()


def test_users_see_few_errors_and_only_of_the_faulty_version(summary: dict[str, Any]) -> None:
    _, good, faulty = summary["releases"]
    assert good["failed_requests"] == 0 and good["requests"] > 500
    assert 0 < faulty["failed_requests"] < 0.1 * faulty["requests"]
    assert "errors" in faulty["reason"]


def test_the_model_is_an_honest_one(summary: dict[str, Any], repo: Path) -> None:
    """Well above chance, well below what actual departure times would give (about 0.9)."""
    assert 0.62 < summary["test_auc"] < 0.75
    _, signature, _ = verify_package(repo / ".modelyard" / "packages" / "2")
    names = {i.name for i in signature.inputs}
    assert not names & {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"}


def test_versions_are_compared_on_one_test_set(repo: Path) -> None:
    packages = repo / ".modelyard" / "packages"
    manifests = [verify_package(packages / str(n))[0] for n in (1, 2, 3)]
    assert len({m.test_hash for m in manifests}) == 1
    assert len({m.data_hash for m in manifests}) == 2, "the second has seen more months"
    assert manifests[0].rows["train"] < manifests[1].rows["train"]
    for m in manifests:
        assert m.rows["valid"] + m.rows["quarantined"] == m.rows["raw"] == 336_776


def test_the_record_tells_how_the_weight_rose(repo: Path) -> None:
    def weights(events: list[ReleaseEvent]) -> list[int]:
        return sorted({e.weight for e in events if e.phase == "canary"})

    first, good, faulty = releases(repo / ".modelyard" / "releases")
    assert weights(first) == []
    assert weights(good) == [5, 25, 50]
    assert weights(faulty)[-1] < 100
    assert faulty[-1].weight == 0 and faulty[-1].stable == 2


def test_the_demo_leaves_nothing_running(repo: Path) -> None:
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", 8080)) != 0


def test_the_report_shows_each_release_and_why(demo: Path, repo: Path) -> None:
    page = Page((demo / "report.html").read_text())
    decided = ["v3 against v2 rolled back", "v2 against v1 promoted", "v1 bootstrapped"]
    assert page.headings == decided
    recorded = releases(repo / ".modelyard" / "releases")
    assert page.reasons == [events[-1].reason for events in reversed(recorded)]
    assert len(page.pictures) >= 2 * 6, "what users got, of both that were compared"
    assert not page.outside, "the page must stand alone"
    assert page.contradictory_intervals() == []


def test_the_lineage_goes_from_raw_rows_to_the_deployed_version(repo: Path) -> None:
    listed = run(
        repo / ".venv/bin/dg",
        "list",
        "defs",
        "--json",
        cwd=repo,
        DAGSTER_HOME=str(repo / ".dagster"),
    )
    assets = {
        a["asset_key"]: set(a["dependency_keys"])
        for a in json.loads(listed[listed.index("{") :])["assets"]
    }
    seen, ahead = set(), {"deployed_version"}
    while ahead:
        key = ahead.pop()
        seen.add(key)
        ahead |= assets.get(key, set()) - seen
    assert {"raw", "valid", "features", "weights", "evaluation", "model_package"} <= seen


@pytest.mark.parametrize("target", ["test", "lint", "render"])
def test_the_rendered_repos_own_commands_pass(target: str, repo: Path) -> None:
    run("make", target, cwd=repo)
