"""Record on a laptop: JSON-lines files, and a file that is locked."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from modelyard.documents import ReleaseEvent, UserError, read_record
from modelyard.documents import releases as read_releases
from modelyard.documents.layout import STATE, StateFolder


class FileRecord:
    """One JSON-lines file a release, in `releases/`."""

    def __init__(self, state: Path = STATE) -> None:
        self.folder = StateFolder(state.absolute()).releases

    @contextmanager
    def lock(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a+") as file:
            try:
                # The kernel drops it with the process: a killed controller leaves no lock.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise UserError(
                    f"another controller (process {file.read().strip() or 'unknown'}) is at "
                    "work on this environment; wait for it, or end it"
                ) from None
            file.seek(0)
            file.truncate()
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield

    def check(self) -> None:
        """The kernel keeps the lock for as long as this process lives."""

    def releases(self) -> list[list[ReleaseEvent]]:
        return read_releases(self.folder)

    def append(self, event: ReleaseEvent) -> None:
        path = self.folder / f"{event.release}.jsonl"
        try:
            if event.sequence and not path.exists():
                raise UserError(f"the release record {path} is gone: who has removed it?")
            _drop_cut_line(path)
            with path.open("a") as file:
                file.write(event.model_dump_json(exclude_none=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"can't write the release record {path}: {error.strerror}") from None

    def set_aside(self, sound: Callable[[list[ReleaseEvent]], bool]) -> list[str]:
        """By another ending, which `releases` does not look for."""
        aside = []
        for path in sorted(self.folder.glob("*.jsonl")):
            try:
                fine = sound(read_record(path))
            except UserError:
                fine = False
            if not fine:
                aside.append(path.rename(path.with_suffix(".jsonl.set-aside")))
        return list(map(str, aside))


def _drop_cut_line(path: Path) -> None:
    """A crash in the middle of a write leaves a line without its end: it counts as unwritten."""
    if not path.exists():
        return
    text = path.read_bytes()
    if text and not text.endswith(b"\n"):
        os.truncate(path, text.rfind(b"\n") + 1)
