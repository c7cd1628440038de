"""weights → exported model → its figures on the frozen test set, against the champion's."""

import dagster as dg
from modelyard.pipeline.orchestration import assets
from modelyard.pipeline.orchestration.executor import pod

from ..features import SIGNATURE
from ..settings import settings, workspace


@dg.asset(
    deps=["weights"],
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="model",
    kinds={"torch"},
)
def exported_model() -> dg.MaterializeResult:
    """One program from raw inputs to a score: preprocessing and network."""
    from ..network import Network, score

    own = settings().training
    network = Network(SIGNATURE, own.hidden, own.embedding, own.dropout)
    return assets.export(workspace, network, score, SIGNATURE)


@dg.asset(
    deps=["exported_model", "test_set"],
    check_specs=[
        dg.AssetCheckSpec(
            "gate",
            asset="evaluation",
            blocking=True,
            description="Not worse than the champion, overall and in no slice.",
        )
    ],
    **pod(cpu="2", memory="4Gi"),
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="model",
    kinds={"scikitlearn"},
)
def evaluation() -> assets.Results:
    """Challenger and champion on the frozen test set."""
    yield from assets.evaluate(workspace, SIGNATURE, settings().gate)
