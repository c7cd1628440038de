"""The work folder of a training before its ranks begin: what goes in, what stays of a stop."""

import fcntl
import hashlib
import importlib.util
import json
import shutil
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from modelyard.documents import Signature, UserError
from modelyard.documents.files import replaced, sha256
from modelyard.pipeline.config.settings import WITHOUT_EFFECT, TrainingSettings
from modelyard.pipeline.data.content import HASH
from modelyard.pipeline.data.tensors import write_arrays
from modelyard.pipeline.training.torchrun import GRACE
from modelyard.pipeline.training.workdir import (
    JOB,
    LOG,
    MISTAKE,
    OUTCOME,
    Job,
    unfinished,
)


def check(settings: TrainingSettings, train: Path, validation: Path) -> None:
    """Refuse data that can't be shared out.

    Raises:
        UserError: too few rows for the ranks.
    """
    for name, path, least in (
        ("training", train, settings.ranks * settings.accumulate),
        ("validation", validation, settings.ranks),
    ):
        rows = pl.scan_parquet(path).select(pl.len()).collect().item()
        if rows < least:
            raise UserError(
                f"config.yaml: training: {rows} {name} rows for {settings.ranks} ranks "
                f"(accumulate {settings.accumulate}); choose fewer ranks or more months"
            )


def prepare(
    module: str,
    folder: Path,
    settings: TrainingSettings,
    signature: Signature,
    train: Path,
    validation: Path,
) -> None:
    """Write what the ranks read, unless a training that goes on has it already."""
    job = describe(module, settings, signature, train, validation)
    clear(folder, job)
    fill(folder, job, train, validation)


def describe(
    module: str, settings: TrainingSettings, signature: Signature, train: Path, validation: Path
) -> Job:
    return Job(
        settings=settings.model_dump(mode="json"),
        signature=signature,
        fingerprint=fingerprint(module, settings, signature, train, validation),
    )


def clear(folder: Path, job: Job) -> None:
    """Make a work folder without what another training, or a failure, has left there.

    Raises:
        UserError: ranks of another run write there, and do not end.
    """
    _wait_for_others(folder / LOG)
    if not _goes_on(folder, job.fingerprint):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for left in (MISTAKE, OUTCOME, LOG):
        (folder / left).unlink(missing_ok=True)
    shutil.rmtree(folder / "errors", ignore_errors=True)


def _wait_for_others(log: Path) -> None:
    """For the ranks of a run that was killed, whose last checkpoint is still being written."""
    deadline, told = time.monotonic() + GRACE + 10, False
    while log.exists():
        with log.open() as file, suppress(BlockingIOError):
            return fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if time.monotonic() > deadline:
            raise UserError(
                f"another run trains in {log.parent}; wait for its end, or end its processes "
                f"(fuser {log} lists them)"
            )
        if not told:
            print("  waiting for the ranks of a run that was killed", flush=True)
        told = True
        time.sleep(0.1)


def fill(folder: Path, job: Job, train: Path, validation: Path) -> None:
    """Write arrays and job into a cleared folder; the job last, which says that all is there."""
    if not (folder / JOB).exists():
        write_arrays(train, job.signature, folder / "train")
        write_arrays(validation, job.signature, folder / "validation")
    with replaced(folder / JOB) as new:
        new.write_text(job.model_dump_json(indent=1))


def _goes_on(folder: Path, wanted: str) -> bool:
    """Whether the folder holds a checkpoint of this very training, which has not ended."""
    return (
        unfinished(folder) and json.loads((folder / JOB).read_text()).get("fingerprint") == wanted
    )


def fingerprint(
    module: str, settings: TrainingSettings, signature: Signature, train: Path, validation: Path
) -> str:
    """SHA-256 of code, data and settings: what a checkpoint may be read by again."""
    digest = hashlib.sha256()
    parts: list[Any] = [
        module,
        version("torch"),
        settings.model_dump_json(exclude=WITHOUT_EFFECT),
        signature.model_dump_json(),
        *(_content(path) for path in (train, validation)),
    ]
    spec = importlib.util.find_spec(module.partition(".")[0])
    for place in (spec.submodule_search_locations or []) if spec else []:
        parts += [path.read_text() for path in sorted(Path(place).rglob("*.py"))]
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()


def _content(dataset: Path) -> str:
    known = pl.read_parquet_metadata(dataset).get(HASH)
    return known or sha256(dataset)
