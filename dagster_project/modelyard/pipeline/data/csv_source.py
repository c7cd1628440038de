"""Source files, read with clear words for what can be wrong with them."""

import codecs
import csv
import gzip
import importlib.util
import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from modelyard.documents import UserError
from modelyard.pipeline.config.settings import Months

ENDINGS = (".csv", ".csv.gz", ".csv.zip")
NULLS = ["", "NA"]


def package_folder(name: str) -> Path:
    """The folder of an installed package, without importing it.

    Raises:
        UserError: it is not installed.
    """
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"the package {name}, which holds the data, is not installed; run `make setup`, "
            "or name a folder in config.yaml: data.source"
        )
    return Path(found.submodule_search_locations[0])


def find(folder: Path, name: str) -> Path:
    """`name`.csv, .csv.gz or .csv.zip in a folder.

    Raises:
        UserError: there is none, or more than one.
    """
    there = [folder / f"{name}{end}" for end in ENDINGS if (folder / f"{name}{end}").exists()]
    if not there:
        expected = ", ".join(f"{name}{end}" for end in ENDINGS)
        raise UserError(
            f"{folder}: no source file {name} (looked for {expected}); put it there, or name "
            "another folder in config.yaml: data.source"
        )
    if len(there) > 1:
        raise UserError(f"{folder}: which one is meant, {there[0].name} or {there[1].name}?")
    return there[0]


def read_csv(path: Path, columns: Sequence[str], nulls: Sequence[str] = NULLS) -> pl.DataFrame:
    """A CSV file (plain, gzip or zip) as text columns, in the given order.

    Raises:
        UserError: the file is cut short or no CSV, lacks a column, or has a row with more or
            fewer fields than columns.
    """
    content = _content(path).removeprefix(codecs.BOM_UTF8).rstrip(b"\r\n")
    head, _, _ = content.partition(b"\n")
    names = next(csv.reader([head.decode(errors="replace").strip()]), [])
    missing = [name for name in columns if name not in names]
    if missing:
        raise UserError(
            f"{path}: no column {', '.join(missing)}; it has {', '.join(names)}. "
            "Mend the file, or the columns in data.py"
        )
    try:
        _check_rows(path, content, len(names))
        return pl.read_csv(content, columns=list(columns), infer_schema=False,
                           null_values=list(nulls)).select(columns)  # fmt: skip
    except (pl.exceptions.PolarsError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file: {str(error).splitlines()[0]}") from None


def _check_rows(path: Path, content: bytes, width: int) -> None:
    """Polars fills a short row up, and drops what a long one has beyond the columns read."""
    if b'"' in content:
        text = io.TextIOWrapper(io.BytesIO(content), errors="replace", newline="")
        rows = csv.reader(text, strict=True)
        wrong = ((rows.line_num, len(row)) for row in rows if max(len(row), 1) != width)
    else:  # ten times as fast
        lines = pl.read_csv(content, has_header=False, separator="\0", quote_char=None,
                            infer_schema=False).to_series()  # fmt: skip
        fields = lines.str.count_matches(",", literal=True).fill_null(0) + 1
        wrong = ((row + 1, fields[row]) for row in (fields != width).arg_true())
    line, found = next(wrong, (0, width))
    last = content.count(b"\n") + 1
    if line == last and found < width:
        raise UserError(
            f"{path}: cut short: its last row has {found} of {width} fields; get the file again"
        )
    if found != width:
        raise UserError(
            f"{path}: line {line} has {found} fields where the header has {width}; mend the file"
        )


def of_month(rows: pl.DataFrame, day: pl.Expr, month: str, months: Months) -> pl.DataFrame:
    """The rows of one month, and with the first of `months` those of which nobody knows.

    A row without a readable day would belong to no month and be lost without a word; so
    the contract sees it, and quarantines it.

    Args:
        day: a row's date or time, null where it cannot be read.
        month: YYYY-MM.
        months: all that are asked for (`data.months`).
    """
    own = day.dt.strftime("%Y-%m").eq(month).fill_null(month == months.first)
    return rows.filter(own)


def _content(path: Path) -> bytes:
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                return file.read()
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                return archive.read(archive.namelist()[0])
        return path.read_bytes()
    except (EOFError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile, IndexError) as error:
        raise UserError(f"{path}: cut short or damaged ({error}); get the file again") from None
