"""Scores the rows of a file: `modelyard score PACKAGE INPUT OUTPUT`.

Rows are checked as those of a request are, a bounded number at a time. OUTPUT (Parquet) has
the columns of INPUT, and `row`, `score`, `class`, `version` and `package`; what does not fit
the signature goes to the quarantine, with the `reason`. Both files appear whole, or not at all.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from modelyard.cli import exit_on_sigterm
from modelyard.cli.parser import Parser
from modelyard.serving.batch.score import MAX_QUARANTINED_SHARE, Counts, score
from modelyard.serving.batch.source import FORMATS
from modelyard.serving.commands import SCORE

MORE = (
    "OUTPUT has the columns of INPUT, and row, score, class, version and package. What does not "
    "fit the signature goes to the quarantine, with the reason. Both appear whole, or not at all."
)
PROGRESS_S = 1.0


def main(arguments: Sequence[str]) -> int:
    parser = Parser(SCORE, MORE)
    parser.add_argument("package", type=Path, help="folder of a model package")
    parser.add_argument("input", type=Path, help=f"{', '.join(FORMATS)}, or a folder of them")
    parser.add_argument("output", type=Path, help="Parquet file, .parquet")
    parser.add_argument(
        "--quarantine", type=Path, help="Parquet file; default: OUTPUT's with .quarantine.parquet"
    )
    parser.add_argument(
        "--max-quarantined-share", type=share, default=MAX_QUARANTINED_SHARE, metavar="S",
        help=f"of the rows; above it nothing is scored (default: {MAX_QUARANTINED_SHARE})",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the counts as one line")
    options = parser.parse_args(arguments)
    quarantine = options.quarantine or options.output.with_suffix(".quarantine.parquet")
    began = time.monotonic()
    with exit_on_sigterm():
        counts = score(
            options.package, options.input, options.output, quarantine,
            options.max_quarantined_share, _Progress(),
        )  # fmt: skip
    if options.json:
        print(json.dumps(asdict(counts)))
        return 0
    took = time.monotonic() - began
    print(f"{counts.scored:,} rows scored in {took:.1f} s: {options.output}")
    if counts.quarantined:
        print(f"{counts.quarantined:,} do not fit the signature: {quarantine} ({counts.reason})")
    return 0


class _Progress:
    """A line a few seconds, for who waits at a terminal."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()

    def __call__(self, counts: Counts) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and now - self._last >= PROGRESS_S:
            self._last = now
            rate = counts.read / (now - self._began)
            print(f"{counts.read:,} rows, {rate:,.0f} a second", file=sys.stderr)


def share(text: str) -> float:
    if not 0 <= (found := float(text)) <= 1:
        raise ValueError
    return found
