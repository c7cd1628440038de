"""The prediction log: what a version's servers were asked and answered, row by row.

Servers write it, a release reads it while it is written. It is a folder, or a place in object
storage, of Parquet files; a file is there whole or not at all. A request's rows stand together,
in order, in one file; row 0 begins a request.
"""

import zlib

from modelyard.documents.package import SCORE

PLACE_VARIABLE = "MODELYARD_PREDICTION_LOG"
"""the folder, or the URL of one in object storage; not set: there is no log"""
FLUSH_VARIABLE = "MODELYARD_PREDICTION_LOG_FLUSH"
"""seconds after which rows are in a file, if there are any"""


# Columns; a reader leaves others alone.
TIME = "time"
"""float64: when it was answered, s since the epoch"""
REQUEST_ID = "request_id"
"""string: of the answer's header; a client may use one again"""
VERSION = "version"
"""int64: of the model"""
ROW = "row"
"""int32: the row's place in the request"""
INPUTS = "inputs"
"""struct with a field for each input of the signature; null: missing"""
CLASS = "class"
"""string: of a classification only"""
COLUMNS = (TIME, REQUEST_ID, VERSION, ROW, INPUTS, SCORE, CLASS)
"""`SCORE` is float64, or of several classes a list of them in the order of the classes"""

SUFFIX = ".parquet"


def file_name(version: int, host: str, process: int, start_ms: int, number: int) -> str:
    """Of a process's `number`th file; no two processes share one, whenever they start."""
    return f"v{version}-{host}-{process}-{start_ms}-{number:06d}{SUFFIX}"


def hidden(name: str) -> str:
    """What a file is called until it is whole."""
    return f".{name}"


def is_whole(name: str) -> bool:
    """Whether a file of this name is one of the log's, and there to be read."""
    return name.endswith(SUFFIX) and not name.startswith(".")


def sampled_row(request_id: str, rows: int) -> int:
    """The row of a request whose score counts as that request's.

    Rows of one request are too much alike to count as many answers where two versions are
    compared. Both versions sample the same row, and so does whoever reads the log later.
    """
    return zlib.crc32(request_id.encode()) % rows
