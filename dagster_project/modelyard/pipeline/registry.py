"""The model registry: MLflow, embedded (SQLite) unless MLFLOW_TRACKING_URI names a server.

`python -m modelyard.pipeline.registry --fetch N` brings a registered version's package back
to `.modelyard/packages/N`.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard.documents import Manifest, UserError, verify_package
from modelyard.pipeline.workspace import Workspace, replaced_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACTS = "package"


def register(workspace: Workspace) -> int:
    """Verify `.modelyard/package` and register it; returns its version.

    The run holds configuration, metrics and the package; the version's package is also
    kept in `.modelyard/packages/<version>`, which is what serving builds from.

    Raises:
        UserError: the package is not what its manifest says, the registry cannot be
            reached, or it gives a version number that stands for another package here.
    """
    manifest, _, package_id = verify_package(workspace.package)
    with _registry(workspace) as client:
        run = client.create_run(_experiment(client, workspace, manifest.name)).info
        try:
            _log(client, run.run_id, manifest, package_id)
            client.log_artifacts(run.run_id, str(workspace.package), ARTIFACTS)
            version = _version(client, manifest, package_id, run)
            try:
                _keep(workspace, version, package_id)
            except BaseException:
                client.delete_model_version(manifest.name, str(version))
                raise
        except BaseException:
            client.set_terminated(run.run_id, "FAILED")
            raise
        client.set_terminated(run.run_id)
    return version


def is_registered(workspace: Workspace, name: str, version: int) -> bool:
    """Whether the registry has this version.

    Raises:
        UserError: the registry cannot be reached.
    """
    from mlflow.exceptions import MlflowException

    with _registry(workspace) as client:
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
    with _registry(workspace) as client:
        registered = client.get_model_version(name, str(version))
        with replaced_folder(folder) as new:
            mlflow.artifacts.download_artifacts(
                run_id=registered.run_id, artifact_path=ARTIFACTS, dst_path=str(new),
                tracking_uri=_uri(workspace),
            )  # fmt: skip
            for file in (new / ARTIFACTS).iterdir():
                shutil.move(file, new)
            (new / ARTIFACTS).rmdir()
            _, _, package_id = verify_package(new)
            if package_id != registered.tags.get("package"):
                raise UserError(f"version {version} of {name}: the registry holds another package")
    return folder


@contextmanager
def _registry(workspace: Workspace) -> "Iterator[MlflowClient]":
    # Without a server nothing answers: say so in seconds, not in minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import logging

    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    uri = _uri(workspace)
    try:
        yield MlflowClient(tracking_uri=uri, registry_uri=uri)
    except (MlflowException, OSError) as error:
        # Of a file, an OSError has a number; those of a connection without an answer have none.
        away = isinstance(error, MlflowException | ConnectionError | TimeoutError)
        if not away and error.errno is not None:
            raise UserError(
                f"a model package cannot be kept: {error}; mend that (is the disk full?), "
                "then run this again"
            ) from error
        raise UserError(
            f"model registry {uri}: {str(error).strip().splitlines()[0]}; "
            "look at MLFLOW_TRACKING_URI, or unset it for the registry in .modelyard"
        ) from error


def _uri(workspace: Workspace) -> str:
    workspace.state.mkdir(exist_ok=True)
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workspace.state / 'mlflow.db'}"


def _experiment(client: "MlflowClient", workspace: Workspace, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found:
        return found.experiment_id
    local = None if "MLFLOW_TRACKING_URI" in os.environ else workspace.state / "mlartifacts"
    return client.create_experiment(name, artifact_location=local.as_uri() if local else None)


def _log(client: "MlflowClient", run: str, manifest: Manifest, package_id: str) -> None:
    from mlflow.entities import Metric, Param, RunTag

    client.log_batch(
        run,
        metrics=[Metric(name, value, 0, 0) for name, value in manifest.metrics.items()],
        params=[Param(name, str(value)) for name, value in _flat(manifest.configuration)],
        tags=[
            RunTag("git_commit", manifest.git_commit),
            RunTag("test_hash", manifest.test_hash),
            RunTag("package", package_id),
        ],
    )


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
            f"{folder} holds another model already, but the registry {_uri(workspace)} has just "
            f"given that number out; move {folder.parent} and {workspace.releases} away if this "
            "is another registry than before"
        )
    with replaced_folder(folder) as new:
        shutil.copytree(workspace.package, new, dirs_exist_ok=True)
        _, _, copied = verify_package(new)
        assert copied == package_id


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def main() -> int:
    parser = argparse.ArgumentParser(prog="modelyard.pipeline.registry", description=__doc__)
    parser.add_argument("--fetch", type=int, required=True, metavar="N")
    version = parser.parse_args().fetch
    try:
        workspace = Workspace(Path.cwd())
        print(fetch(workspace, workspace.project()["name"], version))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
