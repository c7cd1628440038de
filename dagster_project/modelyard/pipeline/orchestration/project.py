"""A model's parts, and the Dagster definitions that come of them: what a `model.py` is made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from modelyard.documents.files import replaced
from modelyard.pipeline.data.content import HASH, content_hash
from modelyard.pipeline.orchestration.parts import Own, Parts


@dataclass(frozen=True, kw_only=True)
class Project(Parts[Own]):
    """The parts of one model, and what a team's assets ask of it."""

    def definitions(
        self, *, deps: Mapping[str, Sequence[str]] | None = None, replace: Sequence[str] = ()
    ) -> Callable[[], dg.Definitions]:
        """The standard assets and those of the folder `defs/`, as Dagster and `dg` load them.

        Args:
            deps: of a standard asset, by its name, further assets that come before it.
            replace: standard assets in whose place assets of the same name in `defs/` stand.

        Nothing is read before Dagster asks for it.
        """

        @dg.definitions
        def load() -> dg.Definitions:
            from modelyard.pipeline.orchestration.graph import definitions

            return definitions(self, deps or {}, replace)

        return load

    def monthly(self) -> dict[str, Any]:
        """Arguments of an asset with the data's partitions: `@dg.asset(**project.monthly())`."""
        from modelyard.pipeline.orchestration.assets import monthly

        return monthly(self.config().data.months)

    def path(self, asset: str, month: str = "") -> Path:
        """The Parquet file of an asset's rows, standard or of the team's: of a month, or of all."""
        if month:
            return self.workspace.partition(asset, month)
        return self.workspace.dataset(asset.removesuffix("_set"))

    def write(self, rows: pl.DataFrame, asset: str, month: str = "") -> None:
        """Rows into the asset's file, which is whole or as it was before."""
        with replaced(self.path(asset, month)) as new:
            rows.write_parquet(new, metadata={HASH: content_hash(rows)})
