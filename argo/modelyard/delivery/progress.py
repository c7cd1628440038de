"""What a person sees while a release runs."""

import time
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from modelyard.delivery.machine import State, exposure
from modelyard.delivery.ports import Arm, Evidence

_EVERY_S = 2.0
_COLOURS = {"promoted": "green", "bootstrapped": "green", "rolled_back": "red", "held": "yellow"}


class Progress:
    """A table that grows by a row a phase on a terminal; plain lines elsewhere."""

    def __init__(self, title: str, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False)
        self._title = title
        self._began = time.monotonic()
        self._rows: list[tuple[str, ...]] = []
        self._place: tuple[str, int] | None = None
        self._printed = 0.0
        self._live = Live(console=self._console, refresh_per_second=8)

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live.start()
        else:
            self._console.print(self._title, markup=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def follow(self, state: State, evidence: Evidence) -> None:
        """One event more."""
        new = self._place != (state.phase, state.weight)
        self._place = (state.phase, state.weight)
        row = self._row(state, evidence)
        if self._console.is_terminal:
            self._rows = [*self._rows, row] if new else [*self._rows[:-1], row]
            self._live.update(self._table())
        elif new or time.monotonic() - self._printed > _EVERY_S:
            self._printed = time.monotonic()
            self._console.print(
                "  ".join(part for part in row if part), markup=False, soft_wrap=True
            )

    def _row(self, state: State, evidence: Evidence) -> tuple[str, ...]:
        stable, candidate = (
            exposure(state, evidence.counts)
            if evidence.counts and state.baseline
            else (Arm(), Arm())
        )
        return (
            f"{time.monotonic() - self._began:6.1f} s",
            f"{state.decision or state.phase:<9}",
            f"{state.weight:3} %",
            _arm(f"v{state.candidate}", candidate),
            _arm(f"v{state.stable}", stable) if state.decision is None else "",
            state.reason,
        )

    def _table(self) -> Table:
        table = Table(title=self._title, title_justify="left", expand=True)
        for name in ("time", "phase", "weight", "candidate", "stable"):
            table.add_column(name, no_wrap=True)
        table.add_column("what", ratio=1)
        for row in self._rows:
            table.add_row(*row, style=_COLOURS.get(row[1].strip()))
        return table


def _arm(name: str, arm: Arm) -> str:
    return f"{name}: {arm.requests} req, {arm.failures} failed" if arm.requests else ""
