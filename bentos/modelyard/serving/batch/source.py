"""The rows of a file or folder of Parquet, Arrow or CSV, in tables of one size.

Each file is read by pulling batch after batch: `pyarrow.dataset` reads ahead of a slow consumer
without a bound (seen with pyarrow 25: 400 MB of a 39 MB file).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from modelyard.documents import Signature, UserError
from modelyard.serving.codec.arrow_codec import without_views, wrong_types
from modelyard.serving.codec.schemas import arrow_type

BUFFER_BYTES = 2**20
Batches = tuple[pa.Schema, Iterator[pa.RecordBatch]]


class Source:
    """The columns are looked at when it is made, the rows when they are asked for."""

    def __init__(self, path: Path, signature: Signature) -> None:
        """
        Raises:
            UserError: there is nothing of a known kind, a file lacks an input or has one
                of another type, or the files differ in their columns.
        """
        self._files, self._signature = _files(path), signature
        self.schema = self._open(self._files[0], 1)[0]
        for file in self._files:
            schema, _ = self._open(file, 1)
            _check(file, schema, signature)
            if not schema.equals(self.schema):
                raise UserError(f"{file}: its columns or their types differ from {self._files[0]}")

    def tables(self, rows: int) -> Iterator[pa.Table]:
        """All rows, the files by their names, `rows` at a time; the last are fewer.

        Raises:
            UserError: a file is damaged.
        """
        yield from _even(self._batches(rows), self.schema, rows)

    def _batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        for file in self._files:
            _, batches = self._open(file, rows)
            with _readable(file):
                yield from batches

    def _open(self, file: Path, rows: int) -> Batches:
        with _readable(file):
            schema, batches = FORMATS[file.suffix](file, rows, self._signature)
        plain = without_views(schema)
        return plain, batches if plain == schema else (batch.cast(plain) for batch in batches)


def _parquet(file: Path, rows: int, _: Signature) -> Batches:
    # A large row group is read piece by piece.
    given = pq.ParquetFile(file, buffer_size=BUFFER_BYTES, pre_buffer=False)
    return given.schema_arrow.remove_metadata(), given.iter_batches(rows)


def _arrow(file: Path, rows: int, _: Signature) -> Batches:
    given = pa.ipc.open_file(pa.OSFile(str(file)))
    batches = (given.get_batch(place) for place in range(given.num_record_batches))
    return given.schema.remove_metadata(), batches


def _csv(file: Path, rows: int, signature: Signature) -> Batches:
    """An empty field is missing. What is no number of the model stays text: a key such as 01
    would be another one as a number, and the first megabyte does not tell a column's type."""
    types = {name: pa.string() for name in pa.csv.open_csv(file).schema.names}
    types |= {number.name: arrow_type(number) for number in signature.numbers}
    convert = pa.csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True)
    given = pa.csv.open_csv(file, convert_options=convert)
    return given.schema, given


FORMATS = {".parquet": _parquet, ".arrow": _arrow, ".feather": _arrow, ".csv": _csv}


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in FORMATS and p.name[0] not in "._")
    elif path.exists():
        files = [path]
    else:
        raise UserError(f"{path}: no such file or folder")
    if not files or files[0].suffix not in FORMATS:
        known = ", ".join(FORMATS)
        raise UserError(f"{path}: must be a file of a known kind ({known}), or a folder of them")
    return files


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: cannot be read: {str(error).splitlines()[0][:300]}") from None


def _check(file: Path, schema: pa.Schema, signature: Signature) -> None:
    repeated = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if repeated:
        raise UserError(f"{file}: duplicate column {repeated[0]}")
    missing = [given.name for given in signature.inputs if given.name not in schema.names]
    if missing:
        raise UserError(
            f"{file}: no column {', '.join(missing)}, which the model needs "
            f"(with nulls where it is not known); there are {', '.join(schema.names)}"
        )
    if wrong := wrong_types(schema, signature):
        raise UserError(f"{file}: {wrong[0].field}: {wrong[0].message}")


def _even(batches: Iterable[pa.RecordBatch], schema: pa.Schema, rows: int) -> Iterator[pa.Table]:
    """Tables of `rows` rows, of one chunk a column, whatever the sizes of the batches."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += batch.num_rows
        while count >= rows:
            table = pa.Table.from_batches(waiting, schema)
            yield table[:rows].combine_chunks()
            waiting, count = table[rows:].to_batches(), count - rows
    if count:
        yield pa.Table.from_batches(waiting, schema).combine_chunks()
