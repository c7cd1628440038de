"""Runs a model repo's pipeline in this process.

All partitions and all assets by default, as one Dagster run against the instance of
DAGSTER_HOME, so that `make ui` shows it. A failure is one message; the run's log, with
tracebacks, is in `.modelyard/logs/`.
"""

import fcntl
import importlib
import json
import os
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard.documents import Manifest, UserError
from modelyard.documents.files import replaced
from modelyard.documents.package import MANIFEST
from modelyard.pipeline.orchestration.run_log import progress, say
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.pipeline.training.importing import importing
from modelyard.pipeline.training.workdir import Unfinished

if TYPE_CHECKING:
    import dagster as dg

RESULT = "last_train.json"
LOGS_KEPT = 20
ALL = "*"
"""the walk to a registered version"""
ON_REQUEST = ("search", "predictions")
"""groups whose assets run only where a selection names them: a search is a matter of hours,
predictions want a version that was released"""
USER_ERRORS = {UserError.__name__, Unfinished.__name__}
INTERRUPTED = "DagsterExecutionInterruptedError"
"""what Dagster makes of Ctrl-C"""


def materialize(
    workspace: Workspace,
    assets: str = ALL,
    partitions: str | None = None,
    config: dict[str, dict[str, Any]] | None = None,
) -> None:
    """Run `assets` over `partitions` and print how it goes.

    Args:
        config: of assets that take one, by name.

    Raises:
        UserError: a step or a blocking check failed; the message is the step's own.
    """
    started = time.monotonic()
    say("loading the pipeline")
    log = _new_log(workspace)
    with importing():
        import dagster as dg

        definitions = dg.Definitions.merge(
            _definitions(workspace), dg.Definitions(loggers={"progress": progress(log)})
        )
        job = definitions.resolve_implicit_global_asset_job_def()
        chosen = _select(definitions, assets)
        _check_machine(workspace, chosen)
        tags = _range(definitions, chosen, partitions)
        instance = dg.DagsterInstance.get()
    with instance:
        result = job.execute_in_process(
            instance=instance,
            asset_selection=chosen,
            tags=tags,
            run_config={
                "loggers": {"progress": {}},
                "ops": {name: {"config": own} for name, own in (config or {}).items()},
            },
            raise_on_error=False,
        )
    message = _failure(result, log)
    if message:
        raise UserError(message)
    _finish(workspace, result, time.monotonic() - started)


@contextmanager
def alone(workspace: Workspace) -> Iterator[None]:
    """One run at a time: two would overwrite each other's files."""
    workspace.state.mkdir(exist_ok=True)
    with (workspace.state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another run of this pipeline is under way in {workspace.root}; wait for its end"
            ) from None
        yield


def _new_log(workspace: Workspace) -> Path:
    logs = workspace.state / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for old in sorted(logs.glob("*.log"))[:-LOGS_KEPT]:
        old.unlink()
    return logs / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"


def _definitions(workspace: Workspace) -> "dg.Definitions":
    import dagster as dg

    from modelyard.pipeline.orchestration.graph import ignore_notices

    ignore_notices()
    loaded = _model(workspace).defs
    return loaded if isinstance(loaded, dg.Definitions) else loaded()


def _model(workspace: Workspace) -> Any:
    """The module that `dg` loads, too: it has `project`, and its definitions as `defs`."""
    tool = tomllib.loads((workspace.root / "pyproject.toml").read_text()).get("tool", {})
    try:
        name = tool["dg"]["project"]["code_location_target_module"]
    except KeyError:
        raise UserError(
            f"{workspace.root / 'pyproject.toml'} names no [tool.dg.project] "
            "code_location_target_module; run this in the root of a model repo"
        ) from None
    module = importlib.import_module(name)
    for part in ("project", "defs"):
        if not hasattr(module, part):
            raise UserError(f"{module.__file__} has no `{part}`, which the pipeline starts from")
    return module


def _check_machine(workspace: Workspace, chosen: "list[dg.AssetKey]") -> None:
    """What its ranks would be refused for, before the minutes that their data takes."""
    if not {"weights", "best_configuration"} & {key.to_user_string() for key in chosen}:
        return
    given = _model(workspace).project.config()
    if given.kubernetes is None:
        from modelyard.pipeline.launchers.local import check_machine

        check_machine(given.training)


def _select(definitions: "dg.Definitions", assets: str) -> "list[dg.AssetKey]":
    import dagster as dg

    graph = definitions.resolve_asset_graph()
    try:
        selection = dg.AssetSelection.from_coercible(assets.split(","))
        # What one step makes together cannot be made in part.
        keys = selection.required_multi_asset_neighbors().resolve(graph)
    except Exception as error:  # of the selection's own parser
        raise UserError(f"--assets {assets}: {str(error).splitlines()[0]}") from None
    groups = {key: graph.get(key).group_name for key in keys}
    keys = [
        key
        for key, group in groups.items()
        if group not in ON_REQUEST or (assets != ALL and _is_named(selection, key, group))
    ]
    if not keys:
        known = ", ".join(sorted(key.to_user_string() for key in graph.get_all_asset_keys()))
        raise UserError(f"--assets {assets}: no such asset; there are {known}")
    return keys


def _is_named(selection: "dg.AssetSelection", key: "dg.AssetKey", group: str) -> bool:
    """Whether a selection takes an asset for itself, and not as a neighbour of others."""
    import dagster as dg

    @dg.asset(key=key, group_name=group)
    def alone() -> None: ...

    graph = dg.Definitions(assets=[alone]).resolve_asset_graph()
    return key in selection.resolve(graph, allow_missing=True)


def months_of(workspace: Workspace, asset: str, partitions: str | None) -> list[str]:
    """The partitions A...B of an asset, or all of them.

    Raises:
        UserError: there is no such asset, or no such partition.
    """
    definitions = _definitions(workspace)
    chosen = _select(definitions, f'key:"{asset}"')
    first, last = _range(definitions, chosen, partitions).values()
    partitioned = definitions.resolve_asset_graph().get(chosen[0]).partitions_def
    assert partitioned is not None
    keys = partitioned.get_partition_keys()
    return [*keys[keys.index(first) : keys.index(last) + 1]]


def _range(
    definitions: "dg.Definitions", chosen: "list[dg.AssetKey]", partitions: str | None
) -> dict[str, str]:
    """The tags by which Dagster runs a range of partitions as one run."""
    graph = definitions.resolve_asset_graph()
    monthly = next((d for key in chosen if (d := graph.get(key).partitions_def)), None)
    if monthly is None:
        return {}
    keys = monthly.get_partition_keys()
    first, _, last = (partitions or f"{keys[0]}...{keys[-1]}").partition("...")
    last = last or first
    for key in (first, last):
        if key not in keys:
            raise UserError(
                f"--partitions {partitions}: {key} is none of {keys[0]} to {keys[-1]}; "
                "give A...B, or extend data.months in config.yaml"
            )
    if first > last:
        raise UserError(f"--partitions {partitions}: {first} comes after {last}")
    start, end = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
    return {start: first, end: last}


def _failure(result: "dg.ExecuteInProcessResult", log: Path) -> str | None:
    """What the first failed blocking check or step says; None after a success."""
    if result.success:
        return None
    for event in result.all_events:
        if event.event_type_value == "ASSET_CHECK_EVALUATION":
            check = event.asset_check_evaluation_data
            if not check.passed and check.blocking:
                asset = check.asset_key.to_user_string()
                return f"{asset}: {check.check_name}: {check.description}"
    for event in result.get_step_failure_events():
        error = root = event.step_failure_data.error
        while error is not None:
            if error.cls_name in USER_ERRORS:
                return error.message.partition(": ")[2].strip()
            if error.cls_name == INTERRUPTED:
                raise KeyboardInterrupt
            error, root = error.cause, error
        said = root.message.strip() if root else "it failed"
        return f"{event.step_key}: {said}\nThe traceback is in {log}"
    return f"the run failed; see {log}"


def _finish(workspace: Workspace, result: Any, seconds: float) -> None:
    """The summary, and `.modelyard/last_train.json` when a version was registered."""
    versions = [m for m in _materializations(result) if m.asset_key.path == ["model_version"]]
    if not versions:
        say(f"done in {seconds:.0f} s")
        return
    version = versions[-1].metadata["version"].value
    manifest = Manifest.model_validate_json((workspace.registered(version) / MANIFEST).read_bytes())
    figures = {
        "version": version,
        "rows": manifest.rows["raw"],
        "ranks": manifest.ranks,
        "metrics": manifest.metrics,
        "seconds": round(seconds, 1),
    }
    with replaced(workspace.state / RESULT) as new:
        new.write_text(json.dumps(figures, indent=1) + "\n")
    name, value = next(iter(manifest.metrics.items()))
    shown = name.upper() if name == "auc" else name
    test = manifest.configuration["split"]["test"]
    months = f"{test['from']} to {test['to']}"
    print(
        f"test {shown} {value:.4g} on {manifest.rows['test']:,} rows of {months}; "
        f"model version {version}; {seconds:.0f} s"
    )


def _materializations(result: Any) -> list[Any]:
    return [
        event.step_materialization_data.materialization
        for event in result.all_events
        if event.event_type_value == "ASSET_MATERIALIZATION"
    ]
