"""The standard assets of a model, from raw rows to what serves, and the team's own beside them."""

import ast
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_shared.utils.warnings import BetaWarning, PreviewWarning

from modelyard.documents import UserError
from modelyard.pipeline.launchers.kubernetes.launcher import launcher as launcher_for
from modelyard.pipeline.launchers.local import TorchLauncher
from modelyard.pipeline.orchestration import assets, tuning
from modelyard.pipeline.orchestration import predictions as scoring
from modelyard.pipeline.orchestration.executor import executor, pod
from modelyard.pipeline.orchestration.parts import Parts

SETS = {
    "train_set": "Rows of the training months.",
    "validation_set": "Rows that stop the training; later than those of training.",
    "test_set": "Rows of the frozen test months: what two models are compared on.",
    "replay": "Held-out inputs that a release replays as traffic.",
}
WHOLE: dict[str, Any] = {"backfill_policy": dg.BackfillPolicy.single_run()}
"""arguments of an asset that has no partitions, but follows assets that do"""


@dataclass(frozen=True)
class Graph:
    """What the standard assets are made from."""

    project: Parts[Any]
    monthly: Mapping[str, Any]
    """arguments of an asset with the data's partitions"""
    more: Mapping[str, Sequence[str]]
    """of a standard asset, the team's own that come before it"""

    def deps(self, asset: str, *standard: str) -> list[str]:
        return [*standard, *self.more.get(asset, ())]


def ignore_notices() -> None:
    """Of what is new in Dagster: versions are pinned, so that there is nothing to act on."""
    for notice in (BetaWarning, PreviewWarning):
        warnings.filterwarnings("ignore", category=notice)


def definitions(
    project: Parts[Any], more: Mapping[str, Sequence[str]], replaced: Sequence[str]
) -> dg.Definitions:
    """All that Dagster loads.

    Args:
        more: of a standard asset, further assets that come before it.
        replaced: standard assets that the team has its own of.

    Raises:
        UserError: config.yaml has a mistake, a part of the model is missing, or the team's
            assets and the standard ones do not fit together.
    """
    ignore_notices()
    project.check_modules()
    config = project.config()
    graph = Graph(project, assets.monthly(config.data.months), more)
    parts = (data, features, model, delivery, on_request)
    standard = [step for part in parts for step in part(graph)]
    own = _own(project)
    kept = _fitted(standard, own, more, replaced)
    shared = dg.Definitions(
        assets=kept,
        sensors=[_releases(project)],
        # On this machine, or in the cluster that config.yaml names.
        resources={"launcher": launcher_for(config.kubernetes)},
        executor=executor(),
    )
    return dg.Definitions.merge(own, shared)


def data(graph: Graph) -> list[dg.AssetsDefinition]:
    """raw → contract → valid and quarantine, month by month."""
    project, deps = graph.project, graph.deps

    @dg.asset(
        **graph.monthly,
        deps=deps("raw"),
        description=_first_words(project.read),
        group_name="data",
        kinds={"polars"},
    )
    def raw(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        source = project.source()
        return assets.write_raw(context, project.workspace, lambda m: project.read(m, source))

    kept = {"group_name": "data", "kinds": {"pandera", "polars"}}

    @dg.multi_asset(
        **graph.monthly,
        specs=[
            dg.AssetSpec(
                "valid",
                deps=deps("valid", "raw"),
                description="Rows that keep the contract.",
                **kept,
            ),
            dg.AssetSpec(
                "quarantine",
                deps=deps("quarantine", "raw"),
                description="Rows that break the contract, with the reason.",
                **kept,
            ),
        ],
        check_specs=[
            dg.AssetCheckSpec(
                "quarantined_share",
                asset="valid",
                blocking=True,
                description="Few enough rows break the contract.",
            )
        ],
    )
    def contract(context: dg.AssetExecutionContext) -> assets.Results:
        settings = project.config().data
        yield from assets.enforce_contract(context, project.workspace, project.contract, settings)

    return [raw, contract]


def features(graph: Graph) -> list[dg.AssetsDefinition]:
    """valid → features, month by month; features → train, validation and frozen test set."""
    project, deps = graph.project, graph.deps

    @dg.asset(
        **graph.monthly,
        **pod(cpu="2", memory="4Gi"),
        deps=deps("features", "valid"),
        description=_first_words(project.features),
        group_name="features",
        kinds={"polars"},
    )
    def features(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        return assets.make_features(context, project.workspace, project.features, project.signature)

    @dg.multi_asset(
        specs=[
            dg.AssetSpec(
                name,
                deps=deps(name, "test_set" if name == "replay" else "features"),
                description=description,
                group_name="features",
                kinds={"parquet"},
            )
            for name, description in SETS.items()
        ],
        **pod(cpu="2", memory="4Gi"),
        **WHOLE,
    )
    def split() -> assets.Results:
        yield from assets.make_split(project.workspace, project.config().split, project.signature)

    return [features, split]


def model(graph: Graph) -> list[dg.AssetsDefinition]:
    """train and validation set → weights → exported model → its figures on the test set."""
    project, deps = graph.project, graph.deps

    @dg.asset(
        # The ranks run in this pod, unless config.yaml has `kubernetes:`.
        **pod(cpu="4", memory="8Gi"),
        **WHOLE,
        deps=deps("weights", "train_set", "validation_set"),
        description="The network's weights at its lowest validation loss (train.py).",
        group_name="model",
        kinds={"torch"},
    )
    def weights(context: dg.AssetExecutionContext, launcher: TorchLauncher) -> dg.MaterializeResult:
        settings = project.config().training
        return assets.train(
            context, launcher, project.training, project.workspace, settings, project.signature
        )

    @dg.asset(
        **WHOLE,
        deps=deps("exported_model", "weights"),
        description="One program from raw inputs to a score: preprocessing and network.",
        group_name="model",
        kinds={"torch"},
    )
    def exported_model() -> dg.MaterializeResult:
        network, score = project.build_network(project.config().training)
        return assets.export(project.workspace, network, score, project.signature)

    @dg.asset(
        **pod(cpu="2", memory="4Gi"),
        **WHOLE,
        deps=deps("evaluation", "exported_model", "test_set"),
        check_specs=[
            dg.AssetCheckSpec(
                "gate",
                asset="evaluation",
                blocking=True,
                description="Not worse than the champion, overall and in no slice.",
            )
        ],
        description="Challenger and champion on the frozen test set.",
        group_name="model",
        kinds={"scikitlearn"},
    )
    def evaluation() -> assets.Results:
        yield from assets.evaluate(project.workspace, project.signature, project.config().gate)

    return [weights, exported_model, evaluation]


def delivery(graph: Graph) -> list[dg.AssetsDefinition]:
    """evaluated model → model package → registered version → what serves users now."""
    project, deps = graph.project, graph.deps

    @dg.asset(
        **WHOLE,
        deps=deps("model_package", "exported_model", "evaluation"),
        description="Model, signature, manifest, reference rows and model card, verified by hash.",
        group_name="delivery",
        kinds={"torch"},
    )
    def model_package() -> dg.MaterializeResult:
        return assets.build_package(project.workspace, project.config(), project.signature)

    @dg.asset(
        **WHOLE,
        deps=deps("model_version", "model_package"),
        description="The package as a version of the model registry.",
        group_name="delivery",
        kinds={"mlflow"},
    )
    def model_version() -> dg.MaterializeResult:
        return assets.register(project.workspace)

    @dg.asset(
        **WHOLE,
        deps=deps("deployed_version", "model_version"),
        description="What serves users now, by the newest release record.",
        group_name="delivery",
        kinds={"bentoml", "envoy"},
    )
    def deployed_version() -> dg.MaterializeResult:
        return assets.show_deployment(project.workspace)

    return [model_package, model_version, deployed_version]


def on_request(graph: Graph) -> list[dg.AssetsDefinition]:
    """What `make predict` and `make tune` run; `make train` leaves it out."""
    project, deps = graph.project, graph.deps

    @dg.asset(
        **graph.monthly,
        **pod(cpu="2", memory="4Gi"),
        deps=deps("predictions", "valid", "deployed_version"),
        check_specs=scoring.CHECKS,
        description="Each valid row's features with its score, and the version that gave it.",
        group_name=scoring.GROUP,
        kinds={"polars", "parquet"},
    )
    def predictions(context: dg.AssetExecutionContext, config: scoring.Predict) -> assets.Results:
        how = project.config().predictions
        yield from scoring.predict(
            context, project.workspace, project.features, project.signature, how, config
        )

    @dg.asset(
        **pod(cpu="8", memory="16Gi"),
        **WHOLE,
        deps=deps("best_configuration", "train_set", "validation_set"),
        description="The settings with the lowest validation loss; "
        "`make tune` shows them as a change.",
        group_name=tuning.GROUP,
        kinds={"optuna"},
    )
    def best_configuration(config: tuning.Search) -> dg.MaterializeResult:
        return tuning.search(
            project.workspace, project.config(), project.training, project.signature, config
        )

    return [predictions, best_configuration]


def _releases(project: Parts[Any]) -> dg.SensorDefinition:
    @dg.sensor(
        target=dg.AssetSelection.assets("deployed_version"),
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Shows a release as soon as its record tells of it.",
    )
    def releases() -> dg.SensorResult:
        return assets.watch_releases(project.workspace)

    return releases


def _own(project: Parts[Any]) -> dg.Definitions:
    """What the team has in `defs/`."""
    folder = project.workspace.root / "src" / project.package.replace(".", "/") / "defs"
    files = [file for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc"]
    if all(file.name == "__init__.py" and _says_only(file) for file in files):
        return dg.Definitions()  # dg takes half a second to find as much
    return dg.load_from_defs_folder(path_within_project=folder)


def _says_only(file: Path) -> bool:
    """Whether a module has a docstring and nothing else."""
    return all(isinstance(statement, ast.Expr) for statement in ast.parse(file.read_text()).body)


def _fitted(
    standard: list[dg.AssetsDefinition],
    own: dg.Definitions,
    more: Mapping[str, Sequence[str]],
    replaced: Sequence[str],
) -> list[dg.AssetsDefinition]:
    """The standard steps without those that the team has its own of.

    Raises:
        UserError: `more` or `replaced` names no standard asset; an asset of the team's has a
            standard one's name unasked; what one step makes is replaced in part, or by nothing.
    """
    names = {key.to_user_string() for step in standard for key in step.keys}
    made_there = own.resolve_asset_graph().materializable_asset_keys
    theirs = {key.to_user_string() for key in made_there}
    for argument, given in (("deps", more), ("replace", replaced)):
        if unknown := sorted({*given} - names):
            raise UserError(
                f"model.py: definitions({argument}=…) names {unknown[0]}, which is no standard "
                f"asset; there are {', '.join(sorted(names))}"
            )
    if twice := sorted((theirs & names) - {*replaced}):
        raise UserError(
            f"defs/ has an asset {twice[0]}, and so has the platform: give yours another name, "
            f"or say definitions(replace=[{twice[0]!r}]) in model.py to have it in that place"
        )
    if missing := sorted({*replaced} - theirs):
        raise UserError(
            f"model.py: definitions(replace=…) names {missing[0]}, but defs/ has no such asset"
        )
    kept = []
    for step in standard:
        made = {key.to_user_string() for key in step.keys}
        if rest := sorted(made - {*replaced}) if made & {*replaced} else []:
            raise UserError(
                f"model.py: definitions(replace=…): one step makes {', '.join(sorted(made))}; "
                f"replace {', '.join(rest)}, too"
            )
        if not made & {*replaced}:
            kept.append(step)
    return kept


def _first_words(function: Callable[..., Any]) -> str | None:
    """The first paragraph of a docstring, in one line."""
    text = inspect.getdoc(function) or ""
    return " ".join(text.partition("\n\n")[0].split()) or None
