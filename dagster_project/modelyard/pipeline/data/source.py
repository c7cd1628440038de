"""What a team's `read` is given: where the data are, and help with CSV files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from modelyard.pipeline.config.settings import DataSettings, Months
from modelyard.pipeline.data import csv_source
from modelyard.pipeline.storage.workspace import Workspace

PACKAGE = "package:"


@dataclass(frozen=True)
class Source:
    """`data.source` of config.yaml. It lives for one run: a file is read once for all months."""

    location: str
    """as config.yaml has it"""
    months: Months
    """all that there are: the partitions"""
    root: Path
    """of the model repo"""
    _read: dict[tuple[Path, tuple[str, ...]], pl.DataFrame] = field(
        default_factory=dict, repr=False, compare=False
    )

    @classmethod
    def from_settings(cls, data: DataSettings, root: Path) -> "Source":
        return cls(data.source, data.months, root)

    @property
    def folder(self) -> Path:
        """A folder beside config.yaml or elsewhere; of `package:NAME/FOLDER`, that of a package.

        Raises:
            UserError: the package is not installed.
        """
        if not self.location.startswith(PACKAGE):
            return self.root / self.location
        name, _, inside = self.location.removeprefix(PACKAGE).partition("/")
        # Found, not imported: a package of data may read all of it when it is imported.
        return csv_source.package_folder(name) / inside

    def asset(self, name: str) -> pl.DataFrame:
        """The rows that an asset of the team's own keeps, by `project.write(rows, name)`."""
        return pl.read_parquet(Workspace(self.root).dataset(name))

    def csv(self, name: str, columns: Sequence[str]) -> pl.DataFrame:
        """`name`.csv, .csv.gz or .csv.zip of the folder, as text in the given columns.

        Raises:
            UserError: the file is missing, cut short or no CSV, or lacks a column.
        """
        asked = csv_source.find(self.folder, name), tuple(columns)
        if asked not in self._read:
            self._read[asked] = csv_source.read_csv(*asked)
        return self._read[asked]

    def of_month(self, rows: pl.DataFrame, day: pl.Expr, month: str) -> pl.DataFrame:
        """The rows of a month (YYYY-MM); with the first month, those whose day is null.

        A row without a readable day belongs to no month and would be lost without a word; so
        the contract sees it, and quarantines it.
        """
        return csv_source.of_month(rows, day, month, self.months)
