"""What a model repo's assets do, as Dagster sees it; the work is in the plain modules.

A run over several partitions is one step: orchestration then adds a second, not a minute.
Dagster takes one data version for all partitions of a run; it is the content hash of one
partition, or the hash of all their hashes. Each partition's page shows its own.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from modelyard.documents import Signature, UserError
from modelyard.documents.files import replaced
from modelyard.pipeline.config.gate import GatePolicy
from modelyard.pipeline.config.settings import (
    DataSettings,
    Months,
    Settings,
    SplitSettings,
    TrainingSettings,
)
from modelyard.pipeline.data.content import combined, content_hash, stored_hash
from modelyard.pipeline.data.contract import enforce, write
from modelyard.pipeline.data.features import write_features
from modelyard.pipeline.data.splits import join_partitions, write_replay
from modelyard.pipeline.evaluation.gate import SliceResult
from modelyard.pipeline.evaluation.metrics import PRIMARY
from modelyard.pipeline.launchers.local import TorchLauncher
from modelyard.pipeline.orchestration.deployment import cursor, newest_release
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.pipeline.tracking.live_metrics import followed
from modelyard.pipeline.training.workdir import WEIGHTS

if TYPE_CHECKING:
    from torch import Tensor, nn

SUMMARY = "summary"
"""metadata: what a step did, in a few words; `make train` prints it"""
Results = Iterator[dg.MaterializeResult | dg.AssetCheckResult]


def monthly(months: Months) -> dict[str, Any]:
    """Arguments of an asset with one partition a month, any number of them in one run."""
    return {
        "partitions_def": dg.StaticPartitionsDefinition(list(months)),
        "backfill_policy": dg.BackfillPolicy.single_run(),
    }


def partitions_of(context: dg.AssetExecutionContext) -> list[str]:
    """The months that this run is for.

    Raises:
        UserError: none was chosen.
    """
    if not context.has_partition_key and not context.has_partition_key_range:
        raise UserError("no partitions chosen: give --partition-range, such as 2013-01...2013-12")
    return list(context.partition_keys)


def done(
    asset: str, text: str, data_version: str | None = None, /, **figures: Any
) -> dg.MaterializeResult:
    """An asset's result; `text` says what was done, in a few words."""
    return dg.MaterializeResult(
        asset_key=asset,
        metadata={SUMMARY: text, **figures},
        data_version=dg.DataVersion(data_version) if data_version else None,
    )


def partitions_done(
    context: dg.AssetExecutionContext,
    asset: str,
    text: str,
    figures: Mapping[str, Mapping[str, Any]],
) -> dg.MaterializeResult:
    """The result of a run over partitions; each one's figures hold its `content` hash."""
    for partition, numbers in figures.items():
        context.add_asset_metadata(dict(numbers), asset_key=asset, partition_key=partition)
    hashes = [numbers["content"] for numbers in figures.values()]
    return done(asset, text, hashes[0] if len(hashes) == 1 else combined(hashes))


def write_raw(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    read: Callable[[str], pl.DataFrame],
) -> dg.MaterializeResult:
    """`read(month)` → the raw rows of each month, as they came.

    Raises:
        UserError: a month has no rows.
    """
    figures = {}
    for month in partitions_of(context):
        rows = read(month)
        if rows.is_empty():
            raise UserError(f"the source has no rows of {month}; mend config.yaml: data.months")
        with replaced(workspace.partition("raw", month)) as new:
            rows.write_parquet(new)
        figures[month] = {"dagster/row_count": len(rows), "content": content_hash(rows)}
    return partitions_done(context, "raw", _rows(figures), figures)


def enforce_contract(
    context: dg.AssetExecutionContext, workspace: Workspace, contract: type, settings: DataSettings
) -> Results:
    """raw → valid and quarantine, and the check `quarantined_share` over all partitions."""
    valid, quarantine, shares = {}, {}, []
    reasons = pl.DataFrame(schema={"reason": pl.String})
    for month in partitions_of(context):
        found = enforce(pl.read_parquet(workspace.partition("raw", month)), contract, month)
        write(found, workspace.partition("valid", month), workspace.partition("quarantine", month))
        for figures, rows in ((valid, found.valid), (quarantine, found.quarantined)):
            figures[month] = {"dagster/row_count": len(rows), "content": content_hash(rows)}
        shares.append((found.quarantined_share, len(found.quarantined), found.read, month))
        reasons = pl.concat([reasons, found.quarantined.select("reason")])
    yield partitions_done(context, "valid", _rows(valid), valid)
    yield partitions_done(context, "quarantine", _rows(quarantine), quarantine)
    common = reasons["reason"].value_counts(sort=True).head(20)
    yield _share_check(shares, common, settings.max_quarantined_share)


def _share_check(
    shares: list[tuple[float, int, int, str]], reasons: pl.DataFrame, limit: float
) -> dg.AssetCheckResult:
    share, bad, read, month = max(shares)
    text = f"{month}: {bad:,} of {read:,} rows ({share:.2%}) break the contract"
    if share > limit:
        text += (
            f", more than data.max_quarantined_share ({limit:.2%}); most often: "
            f"{reasons['reason'][0]}. See .modelyard/data/quarantine/{month}.parquet"
        )
    return dg.AssetCheckResult(
        asset_key="valid",
        check_name="quarantined_share",
        passed=share <= limit,
        description=text,
        metadata={"worst_share": share, "limit": limit, "reasons": table(reasons)},
    )


def make_features(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    features: Callable[[pl.LazyFrame], pl.LazyFrame],
    signature: Signature,
) -> dg.MaterializeResult:
    """valid → features, one Parquet file a partition."""
    figures, dropped = {}, 0
    for month in partitions_of(context):
        path = workspace.partition("features", month)
        rows, unknown = write_features(
            workspace.partition("valid", month), path, features, signature
        )
        dropped += unknown
        figures[month] = {
            "dagster/row_count": rows,
            "rows_without_target": unknown,
            "content": stored_hash(path),
        }
    text = f"{_rows(figures)}; {dropped:,} without a target left out"
    return partitions_done(context, "features", text, figures)


def make_split(workspace: Workspace, split: SplitSettings, signature: Signature) -> Results:
    """features → train, validation and test set by time; test → replay."""
    for name, months in split.parts().items():
        rows, digest = join_partitions(workspace, months, name)
        text = f"{rows:,} rows of {months}"
        figures = {"dagster/row_count": rows, "months": str(months)}
        yield done(f"{name}_set", text, digest, **figures)
    rows = write_replay(workspace, signature)
    yield done("replay", f"{rows:,} held-out rows", **{"dagster/row_count": rows})


def train(
    context: dg.AssetExecutionContext,
    launcher: TorchLauncher,
    module: str,
    workspace: Workspace,
    settings: TrainingSettings,
    signature: Signature,
) -> dg.MaterializeResult:
    """train and validation set → weights, by `module` under torchrun."""
    with followed(context, workspace, settings):
        history = launcher.run(
            context, module, workspace.training, settings, signature,
            workspace.dataset("train"), workspace.dataset("validation"),
        )  # fmt: skip
    rate = history.rows * len(history.epochs) / history.seconds
    text = (
        f"{history.ranks} ranks, {len(history.epochs)} epochs, {rate:,.0f} rows/s, "
        f"best validation loss {history.best_validation_loss:.4f}"
    )
    epochs = pl.DataFrame(
        [{"epoch": e.epoch, **e.figures(), "seconds": e.seconds} for e in history.epochs]
    )
    return done(
        "weights", text, ranks=history.ranks, rows_per_second=rate,
        best_epoch=history.best_epoch, best_validation_loss=history.best_validation_loss,
        epochs=table(epochs),
    )  # fmt: skip


def export(
    workspace: Workspace,
    network: "nn.Module",
    score: "Callable[[Tensor], Tensor]",
    signature: Signature,
) -> dg.MaterializeResult:
    """weights → `model.pt2`."""
    from modelyard.documents.package import MODEL
    from modelyard.pipeline.packaging.torch_export import export

    path = workspace.evaluation / MODEL
    with replaced(path) as new:
        parameters = export(network, score, workspace.training / WEIGHTS, signature, new)
    size = path.stat().st_size
    text = f"{parameters:,} parameters, {size / 1e3:,.0f} kB"
    return done("exported_model", text, parameters=parameters, bytes=size)


def evaluate(workspace: Workspace, signature: Signature, policy: GatePolicy) -> Results:
    """exported model → evaluation, and the check `gate`."""
    from modelyard.pipeline.evaluation.champion import evaluate

    found = evaluate(workspace, signature, policy)
    name = PRIMARY[signature.task][0]
    text = f"test {name} {found.metrics[name]:.4f} on {found.rows:,} rows"
    yield done("evaluation", text, found.test_hash, **found.metrics, test_hash=found.test_hash)
    slices = pl.DataFrame([_slice(s) for s in found.gate.slices])
    yield dg.AssetCheckResult(
        asset_key="evaluation",
        check_name="gate",
        passed=found.gate.passed,
        description=found.gate.reason,
        metadata={
            "champion": found.champion if found.champion is not None else "none",
            "slices": table(slices),
        },
    )


def _slice(result: SliceResult) -> dict[str, Any]:
    compared = result.comparison.model_dump() if result.comparison else {}
    figures = {k: compared.get(k) for k in ("challenger", "champion", "difference", "low", "high")}
    return {"slice": result.name, "rows": result.rows, "verdict": result.verdict, **figures}


def build_package(
    workspace: Workspace, settings: Settings[Any], signature: Signature
) -> dg.MaterializeResult:
    """exported model and evaluation → `.modelyard/package`."""
    from modelyard.documents.package import CARD
    from modelyard.pipeline.packaging.package import build

    manifest, package = build(workspace, settings, signature)
    card = (workspace.package / CARD).read_text()
    text = f"{len(manifest.files)} files, id {package[:12]}"
    return done("model_package", text, package, git_commit=manifest.git_commit,
                manifest=dg.MetadataValue.json(manifest.model_dump(mode="json")),
                model_card=dg.MetadataValue.md(card))  # fmt: skip


def register(workspace: Workspace) -> dg.MaterializeResult:
    """model package → a version of the registry."""
    from modelyard.pipeline.tracking.registry import register

    version = register(workspace)
    return done("model_version", f"version {version}", str(version), version=version)


def show_deployment(workspace: Workspace) -> dg.MaterializeResult:
    """The newest release record → the asset's figures."""
    figures = newest_release(workspace.releases)
    serving = figures.get("serving_version")
    text = f"version {serving} serves" if serving else "nothing released yet"
    return done("deployed_version", text, cursor(workspace.releases) or None, **figures)


def watch_releases(workspace: Workspace) -> dg.SensorResult:
    """One run of `deployed_version` for each event of a release record."""
    newest = cursor(workspace.releases)
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key=newest)] if newest else [])


def table(frame: pl.DataFrame) -> dg.TableMetadataValue:
    """A small frame as a table in the UI."""
    return dg.MetadataValue.table(
        [dg.TableRecord({k: _plain(v) for k, v in row.items()}) for row in frame.to_dicts()],
        schema=dg.TableSchema(columns=[dg.TableColumn(name) for name in frame.columns]),
    )


def _plain(value: Any) -> str | int | float | bool | None:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _rows(figures: Mapping[str, Mapping[str, Any]]) -> str:
    rows = sum(numbers["dagster/row_count"] for numbers in figures.values())
    months = list(figures)
    return f"{rows:,} rows of {months[0]}" + (f" to {months[-1]}" if len(months) > 1 else "")
