"""One pod of a distributed training: torchrun, with object storage in place of a disk.

    python -m modelyard.pipeline.launchers.kubernetes.entrypoint MODULE

Fetches the arrays, starts this pod's ranks, which meet those of the other pods, and sends
back what they print and report as it comes, and the weights at the end. Its exit code tells
the Job what to do (`indexed_job`).
"""

import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from modelyard.documents import UserError
from modelyard.pipeline.launchers.kubernetes.manifests import AGAIN_CODE, MISTAKE_CODE
from modelyard.pipeline.storage.objects import STORAGE, Objects, Stream
from modelyard.pipeline.training.workdir import (
    HISTORY,
    JOB,
    LOG,
    MISTAKE,
    OUTCOME,
    REPORTS,
    WEIGHTS,
    Job,
    Mistake,
)

CODE = "MODELYARD_CODE"
MISTAKES = "mistakes"
"""folder in the storage: exceptions of ranks' own, one a pod at most"""
MESSAGES = "messages"
OUTPUT = "output"
TERMINATION_LOG = Path(os.environ.get("MODELYARD_TERMINATION_LOG", "/dev/termination-log"))
"""what is written there stands in the pod's status"""
BEAT = 1.0
"""seconds between two looks at the ranks"""
MEETING = 900
"""seconds that ranks wait for the other pods, and a pod that is done for the weights"""


@dataclass(frozen=True)
class Place:
    """Where this pod stands among the others; from its environment."""

    index: int
    pods: int
    ranks: int
    """of this pod"""
    address: str
    """of this pod, and with another index of another"""
    port: int
    folder: Path

    @classmethod
    def here(cls) -> "Place":
        given = os.environ
        return cls(
            index=int(given["JOB_COMPLETION_INDEX"]),
            pods=int(given["MODELYARD_PODS"]),
            ranks=int(given["MODELYARD_RANKS_PER_POD"]),
            address=given["MODELYARD_ADDRESS"],
            port=int(given["MODELYARD_PORT"]),
            folder=Path(given["MODELYARD_WORK"]) / "training",
        )

    def torchrun(self, module: str) -> list[str]:
        """It starts no rank again: when a pod is lost, torch 2.13's agents that remain may wait
        for it for ever, while a new one, with a new meeting place, doesn't.
        """
        from modelyard.pipeline.training.torchrun import GRACE

        host = "true" if self.index == 0 else "false"
        return [
            sys.executable, "-m", "modelyard.pipeline.training.torchrun",
            "--nnodes", str(self.pods), "--nproc-per-node", str(self.ranks),
            "--rdzv-backend", "c10d", "--rdzv-id", "training",
            "--rdzv-endpoint", f"{self.address.format(index=0)}:{self.port}",
            "--rdzv-conf", f"is_host={host},join_timeout={MEETING},read_timeout={MEETING}",
            "--local-addr", self.address.format(index=self.index),
            "--log-dir", str(self.folder / "errors"),
            "--max-restarts", "0", "--shutdown-timeout", str(GRACE),
            module, str(self.folder),
        ]  # fmt: skip


def main() -> int:
    (module,) = sys.argv[1:]
    signal.signal(signal.SIGTERM, _leave)
    place, objects = Place.here(), Objects(os.environ[STORAGE])
    try:
        code, said = run(module, place, objects)
    except UserError as error:
        code, said = MISTAKE_CODE, str(error)
    except OSError as error:
        code, said = 1, f"object storage: {error}"
    if said:
        print(said, file=sys.stderr, flush=True)
        TERMINATION_LOG.write_text(said[:4000])
    return code


def _leave(*_: object) -> None:
    """On SIGTERM while there are no ranks to pass it on to; PID 1 has no default."""
    sys.exit(AGAIN_CODE)


def run(module: str, place: Place, objects: Objects) -> tuple[int, str]:
    """Train; returns the exit code, and what went wrong."""
    if HISTORY in objects.sizes():  # another pod was late to say so
        return 0, ""
    if code_hash(module) != os.environ[CODE]:
        raise UserError(
            "the image holds another code than the repo that started it: build and push the "
            "image of this commit, then name it in config.yaml: kubernetes.image"
        )
    for name in ("train", "validation"):
        objects.download_folder(name, place.folder / name)
    objects.download(JOB, place.folder / JOB)
    job = Job.model_validate_json((place.folder / JOB).read_bytes())
    left = int(job.settings.get("restarts", 0))
    while True:
        ranks = PodRanks(place, objects, place.torchrun(module))
        if (ended := ranks.watch()) == 0:
            return _hand_over(place, objects)
        code, said = _explain(place, objects, ended, ranks.told_to_stop)
        left -= code != AGAIN_CODE
        if code == MISTAKE_CODE or ranks.told_to_stop or left < 0:
            return code, said
        print(f"{said}; starting the ranks again", file=sys.stderr, flush=True)


class PodRanks:
    """torchrun, and the way of what it prints and reports to the storage."""

    def __init__(self, place: Place, objects: Objects, command: list[str]) -> None:
        from dagster_pipes import encode_param

        from modelyard.pipeline.training.torchrun import begin

        self.told_to_stop = False
        self._folder, self._lines = place.folder, list[str]()
        self._messages, self._output = Stream(objects, MESSAGES), Stream(objects, OUTPUT)
        (place.folder / OUTCOME).unlink(missing_ok=True)
        self._reported = place.folder / REPORTS
        self._reported.touch()
        self._sent = 0
        messages = {"DAGSTER_PIPES_MESSAGES": encode_param({"path": str(self._reported)})}
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **messages},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        signal.signal(signal.SIGTERM, self._stop)
        assert self._process.stdin
        begin(self._process.stdin)

    def watch(self) -> int:
        """Until the ranks have ended; their exit code."""
        process = self._process
        assert process.stdout and process.stderr
        with (self._folder / LOG).open("w") as log:
            relays = [
                threading.Thread(target=_relay, args=(process.stdout, sys.stdout, self._lines)),
                threading.Thread(target=_relay, args=(process.stderr, sys.stderr, None, log)),
            ]
            for relay in relays:
                relay.start()
            ended = False
            while (code := self._beat()) is None:
                if (self._folder / MISTAKE).exists() and not ended:
                    ended = True  # torchrun would start the ranks again
                    process.terminate()
            for relay in relays:
                relay.join()
        signal.signal(signal.SIGTERM, _leave)
        self._send()
        return code

    def _stop(self, *_: object) -> None:
        self.told_to_stop = True
        self._process.terminate()

    def _beat(self) -> int | None:
        try:
            return self._process.wait(BEAT)
        except subprocess.TimeoutExpired:
            self._send()
            return None

    def _send(self) -> None:
        """What is new; a storage that fails gets it at another beat."""
        try:
            if lines := len(self._lines):
                self._output.write("".join(self._lines[:lines]))
                del self._lines[:lines]
            with self._reported.open("rb") as file:
                file.seek(self._sent)
                new = file.read()
            if whole := new[: new.rfind(b"\n") + 1]:
                self._messages.write(whole.decode())
                self._sent += len(whole)
        except OSError as error:
            print(f"object storage: {error}; trying again", file=sys.stderr, flush=True)


def _relay(
    source: IO[str], terminal: IO[str], lines: list[str] | None, log: IO[str] | None = None
) -> None:
    for line in source:
        terminal.write(line)
        terminal.flush()
        if lines is not None:
            lines.append(line)
        if log is not None:
            log.write(line)
            log.flush()


def _hand_over(place: Place, objects: Objects) -> tuple[int, str]:
    """The weights to the storage; other pods than rank 0's wait for them.

    A pod that left earlier would be missed, should rank 0's die on its last steps.
    """
    if (place.folder / WEIGHTS).exists():
        objects.upload(place.folder / WEIGHTS, WEIGHTS)
        objects.upload(place.folder / HISTORY, HISTORY)
        return 0, ""
    end = time.monotonic() + MEETING
    while HISTORY not in objects.sizes():
        if time.monotonic() > end:
            return AGAIN_CODE, "the weights never came to the storage"
        time.sleep(BEAT)
    return 0, ""


def _explain(place: Place, objects: Objects, code: int, told_to_stop: bool) -> tuple[int, str]:
    """The exit code that a failure asks for, and what it was.

    Args:
        code: torchrun's.
    """
    from modelyard.pipeline.training import outcome

    if mistake := _mistake(place, objects):
        return MISTAKE_CODE, str(mistake)
    if told_to_stop:
        return AGAIN_CODE, "told to stop"
    found = outcome.read(place.folder, code)
    # An exception that is no mistake is the loss of a rank of another pod.
    alone = found.kind == "rank" and (found.exception or found.exit_code == AGAIN_CODE)
    if alone or found.kind == "rendezvous":
        return AGAIN_CODE, "lost the other pods"
    return 1, outcome.cause(place.folder, code)


def _mistake(place: Place, objects: Objects) -> Mistake | None:
    """Of a rank of this pod, told to the others and the launcher; or of one of theirs."""
    own = place.folder / MISTAKE
    try:
        if own.exists():
            objects.upload(own, f"{MISTAKES}/{place.index}")
        elif others := list(objects.sizes(MISTAKES)):
            objects.download(others[0], own)
    except OSError as error:
        print(f"object storage: {error}", file=sys.stderr, flush=True)
    return Mistake.model_validate_json(own.read_bytes()) if own.exists() else None


def code_hash(module: str) -> str:
    """SHA-256 of the Python files of the module's package and of this one's, with their names."""
    digest = hashlib.sha256()
    for package in (module.partition(".")[0], "modelyard.pipeline", "modelyard.documents"):
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.origin:
            raise UserError(f"there is no module {package}; run this in the repo's environment")
        path = Path(spec.origin)
        places = [path] if path.name != "__init__.py" else sorted(path.parent.rglob("*.py"))
        for place in places:
            text = place.read_text()
            digest.update(f"{place.relative_to(path.parent)}:{len(text)}:{text}".encode())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
