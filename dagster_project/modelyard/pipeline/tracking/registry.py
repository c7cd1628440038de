"""The model registry, which is MLflow's."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard.documents import Manifest, UserError, verify_package
from modelyard.documents.files import replaced_folder
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.pipeline.tracking.mlflow_runs import (
    PACKAGE,
    connected,
    experiment,
    flat,
    log,
    recorded,
    uri,
    without_password,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import RunInfo

ARTIFACTS = "package"


def register(workspace: Workspace) -> int:
    """Verify `.modelyard/package` and register it; returns its version.

    The run of the training that its weights come from gets configuration, metrics and the
    package, or a new run where that is not known; the version's package is also kept in
    `.modelyard/packages/<version>`, which is what serving builds from.

    Raises:
        UserError: the package is not what its manifest says, the registry cannot be
            reached, or it gives a version number that stands for another package here.
    """
    manifest, _, package_id = verify_package(workspace.package)
    parameters = flat(manifest.configuration)
    with connected(workspace) as client:
        training = _training(client, workspace, parameters)
        run = training or client.create_run(experiment(client, workspace, manifest.name)).info
        try:
            commit = {"git_commit": manifest.git_commit, "test_hash": manifest.test_hash}
            log(client, run.run_id, manifest.metrics, parameters, commit)
            client.log_artifacts(run.run_id, str(workspace.package), ARTIFACTS)
            version = _version(client, manifest, package_id, run)
            try:
                _keep(workspace, version, package_id)
            except BaseException:
                client.delete_model_version(manifest.name, str(version))
                raise
        except BaseException:
            if training is None:
                client.set_terminated(run.run_id, "FAILED")
            raise
        log(client, run.run_id, tags={PACKAGE: package_id})
        client.update_run(run.run_id, name=f"version {version}")
        if training is None:
            client.set_terminated(run.run_id)
    return version


def _training(
    client: "MlflowClient", workspace: Workspace, parameters: dict[str, str]
) -> "RunInfo | None":
    """The run of the training that the package's weights come from.

    None where it holds a package already, which stays what it is, or where the configuration
    is another one by now.
    """
    run = recorded(client, workspace)
    if run is None or run.info.status != "FINISHED" or PACKAGE in run.data.tags:
        return None
    same = all(parameters.get(name) == value for name, value in run.data.params.items())
    return run.info if same else None


def is_registered(workspace: Workspace, name: str, version: int) -> bool:
    """Whether the registry has this version.

    Raises:
        UserError: the registry cannot be reached.
    """
    from mlflow.exceptions import MlflowException

    with connected(workspace) as client:
        try:
            client.get_model_version(name, str(version))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
    return True


def fetch(workspace: Workspace, name: str, version: int) -> Path:
    """The package of a registered version → `.modelyard/packages/<version>`.

    Raises:
        UserError: there is no such version, or what comes back is not what was registered.
    """
    import mlflow

    folder = workspace.registered(version)
    if not is_registered(workspace, name, version):
        known = sorted(int(path.name) for path in folder.parent.glob("[1-9]*"))
        there = f"there are {', '.join(map(str, known))}" if known else "run `make train`"
        raise UserError(f"version {version} of {name} is not registered; {there}")
    with connected(workspace) as client:
        registered = client.get_model_version(name, str(version))
        with replaced_folder(folder) as new:
            mlflow.artifacts.download_artifacts(
                run_id=registered.run_id, artifact_path=ARTIFACTS, dst_path=str(new),
                tracking_uri=uri(workspace),
            )  # fmt: skip
            for file in (new / ARTIFACTS).iterdir():
                shutil.move(file, new)
            (new / ARTIFACTS).rmdir()
            _, _, package_id = verify_package(new)
            if package_id != registered.tags.get("package"):
                raise UserError(f"version {version} of {name}: the registry holds another package")
    return folder


def _version(client: "MlflowClient", manifest: Manifest, package_id: str, run: Any) -> int:
    if not client.search_registered_models(f"name = '{manifest.name}'"):
        client.create_registered_model(manifest.name)
    made = client.create_model_version(
        manifest.name,
        source=f"{run.artifact_uri}/{ARTIFACTS}",
        run_id=run.run_id,
        tags={"package": package_id, "git_commit": manifest.git_commit},
    )
    return int(made.version)


def _keep(workspace: Workspace, version: int, package_id: str) -> None:
    folder = workspace.registered(version)
    if folder.exists():
        raise UserError(
            f"{folder} holds another model already, but the registry "
            f"{without_password(uri(workspace))} has just given that number out; move "
            f"{folder.parent} and {workspace.releases} away if this is another registry than before"
        )
    with replaced_folder(folder) as new:
        shutil.copytree(workspace.package, new, dirs_exist_ok=True)
        _, _, copied = verify_package(new)
        assert copied == package_id
