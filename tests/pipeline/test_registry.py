"""Registered versions: MLflow on SQLite, and the packages that serving builds from."""

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import pytest
from mlflow import MlflowClient
from pipeline.packages import write_package

from modelyard.documents import (
    ReleaseEvent,
    UserError,
    verify_package,
)
from modelyard.pipeline.evaluation.champion import find_champion
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.pipeline.tracking import mlflow_runs, registry
from modelyard.pipeline.tracking.registry import fetch, register

pytestmark = pytest.mark.xdist_group("registry")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a registry that holds nothing: MLflow takes seconds to make one.

    Two threads ask for it, as the live curves and the registration of a short training do.
    """
    made = Workspace(tmp_path_factory.mktemp("registry"))
    path = made.state / "mlflow.db"
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(mlflow_runs._make_database, made) for _ in range(2)]
        files = {each.result() or path.stat().st_ino for each in as_completed(both)}
    assert len(files) == 1, "what one of them uses is not replaced by the other"
    return path


@pytest.fixture(scope="module")
def workspace(empty: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two registered versions; version 2 is the package as last built."""
    made = Workspace(tmp_path_factory.mktemp("repo"))
    made.state.mkdir()
    shutil.copy(empty, made.state)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for number, model in enumerate((b"first", b"second"), start=1):
            write_package(made, model)
            assert register(made) == number
    return made


def versions(workspace: Workspace) -> list[int]:
    client = MlflowClient(f"sqlite:///{workspace.state / 'mlflow.db'}")
    return sorted(int(v.version) for v in client.search_model_versions("name = 'flight-delay'"))


def test_each_version_keeps_its_own_package(workspace: Workspace) -> None:
    for version, model in ((1, b"first"), (2, b"second")):
        verify_package(workspace.registered(version))
        assert (workspace.registered(version) / "model.pt2").read_bytes() == model


def test_the_run_holds_configuration_metrics_and_package(workspace: Workspace) -> None:
    client = MlflowClient(f"sqlite:///{workspace.state / 'mlflow.db'}")
    version = client.get_model_version("flight-delay", "1")
    run = client.get_run(str(version.run_id))
    assert run.data.params == {"training.epochs": "3", "gate.slices": "['a']"}
    assert run.data.metrics == {"mae": 1.5}
    assert run.data.tags["git_commit"] == "c0ffee" and run.info.status == "FINISHED"
    assert "package/model.pt2" in {
        f.path for f in client.list_artifacts(run.info.run_id, "package")
    }
    _, _, package_id = verify_package(workspace.registered(1))
    assert version.tags["package"] == package_id


def test_a_changed_package_is_not_registered(workspace: Workspace) -> None:
    model = workspace.package / "model.pt2"
    model.write_bytes(b"tampered with")
    with pytest.raises(UserError, match="model.pt2: changed"):
        register(workspace)
    assert versions(workspace) == [1, 2]
    model.write_bytes(b"second")


def test_only_the_packages_own_manifest_is_exempt(workspace: Workspace) -> None:
    planted = workspace.package / "plots" / "manifest.json"
    planted.write_text("{}")
    with pytest.raises(UserError, match="plots/manifest.json: not in its manifest"):
        verify_package(workspace.package)
    planted.unlink()


def test_a_lost_package_comes_back(workspace: Workspace) -> None:
    folder = workspace.registered(1)
    folder.rename(folder.with_name("lost"))
    fetch(workspace, "flight-delay", 1)
    assert verify_package(folder)[2] == verify_package(folder.with_name("lost"))[2]
    with pytest.raises(UserError, match="version 9 of flight-delay is not registered; there are 1"):
        fetch(workspace, "flight-delay", 9)


def test_a_registry_that_starts_anew_overwrites_no_package(
    workspace: Workspace, empty: Path, tmp_path: Path
) -> None:
    anew = Workspace(tmp_path)
    for folder in ("package", "packages"):
        shutil.copytree(workspace.state / folder, anew.state / folder)
    shutil.copy(empty, anew.state)
    with pytest.raises(UserError, match="packages/1 holds another model already"):
        register(anew)
    assert versions(anew) == []
    assert (anew.registered(1) / "model.pt2").read_bytes() == b"first"


def test_a_server_that_does_not_answer(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="model registry http://127.0.0.1:9: .*MLFLOW_TRACKING_URI"):
        register(workspace)


@pytest.fixture
def clone(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A fresh clone that shares the registry: no package, no release record."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workspace.state / 'mlflow.db'}")
    (tmp_path / "argo").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "flight-delay"\n')
    return Workspace(tmp_path)


def desire(repo: Workspace, version: str) -> None:
    (repo.root / "argo" / "release.yaml").write_text(f"version: {version}\nimage: acme/flights\n")


def test_in_a_fresh_clone_the_champion_is_what_git_asks_for(clone: Workspace) -> None:
    desire(clone, "1")
    assert find_champion(clone) == (1, "")
    assert (clone.registered(1) / "model.pt2").read_bytes() == b"first"


def test_what_was_released_from_here_is_the_champion(clone: Workspace) -> None:
    desire(clone, "1")
    event = ReleaseEvent(
        time=1.0, release="r", sequence=0, candidate=2, stable=2, phase="done", weight=100
    )
    clone.releases.mkdir(parents=True)
    (clone.releases / "r.jsonl").write_text(event.model_dump_json() + "\n")
    assert find_champion(clone) == (2, "")


def test_no_champion_is_said_with_its_reason(clone: Workspace) -> None:
    desire(clone, "7")
    champion, note = find_champion(clone)
    assert champion is None and "version 7 of argo/release.yaml is not registered" in note
    (clone.root / "argo" / "release.yaml").unlink()
    champion, note = find_champion(clone)
    assert champion is None and "there is no argo/release.yaml" in note


def test_a_champion_that_cannot_be_looked_up_is_not_none(
    clone: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    desire(clone, "latest")
    with pytest.raises(UserError, match=r"release.yaml:1: version: "):
        find_champion(clone)
    desire(clone, "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="model registry http://127.0.0.1:9: "):
        find_champion(clone)


def test_a_full_disk_is_not_the_registrys_fault(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    # A disk that is full where the copy is written; the registry's own writes go on.
    monkeypatch.setattr(registry, "_keep", full)
    with pytest.raises(UserError, match="cannot be kept: .*No space left") as refusal:
        register(workspace)
    assert "MLFLOW_TRACKING_URI" not in str(refusal.value)
    assert versions(workspace) == [1, 2]
