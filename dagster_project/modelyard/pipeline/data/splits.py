"""Feature partitions → train, validation and test set, and the rows that a release replays."""

import polars as pl

from modelyard.documents import Signature, UserError
from modelyard.documents.files import replaced
from modelyard.pipeline.config.settings import Months
from modelyard.pipeline.data.content import HASH, combined, rows_in, stored_hash
from modelyard.pipeline.storage.workspace import Workspace

REPLAY_ROWS = 20_000


def join_partitions(workspace: Workspace, months: Months, name: str) -> tuple[int, str]:
    """The feature partitions of `months` as one dataset, in order of time.

    Returns:
        (rows, hash of the partitions' hashes).

    Raises:
        UserError: a partition is missing.
    """
    paths = [workspace.partition("features", month) for month in months]
    missing = [path.stem for path in paths if not path.exists()]
    if missing:
        raise UserError(
            f"the {name} months {', '.join(missing)} have no features yet; run "
            f"`make train PARTITIONS={missing[0]}...{missing[-1]}`"
        )
    digest = combined(stored_hash(path) for path in paths)
    with replaced(workspace.dataset(name)) as new:
        pl.scan_parquet(paths).sink_parquet(new, metadata={HASH: digest})
    return rows_in([workspace.dataset(name)]), digest


def write_replay(workspace: Workspace, signature: Signature, rows: int = REPLAY_ROWS) -> int:
    """Held-out test rows, inputs only, in an order that is random and always the same.

    They are what a release replays as live traffic.
    """
    inputs = [given.name for given in signature.inputs]
    test = pl.read_parquet(workspace.dataset("test"), columns=inputs)
    chosen = test.sample(min(rows, len(test)), shuffle=True, seed=0)
    with replaced(workspace.dataset("replay")) as new:
        chosen.write_parquet(new)
    return len(chosen)
