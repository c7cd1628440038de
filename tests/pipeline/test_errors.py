"""What is left, and what is said, when a training ends otherwise than it should."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from pipeline.job_controller import JobController
from pipeline.ranks import SIGNATURE, gone, small

from modelyard import cli
from modelyard.documents import UserError
from modelyard.pipeline.commands import train
from modelyard.pipeline.config.kubernetes import KubernetesSettings
from modelyard.pipeline.launchers import preparation
from modelyard.pipeline.launchers.kubernetes import client
from modelyard.pipeline.launchers.kubernetes.entrypoint import MISTAKES, Place, _mistake
from modelyard.pipeline.launchers.kubernetes.manifests import ClusterTraining, objects
from modelyard.pipeline.launchers.local import TorchLauncher
from modelyard.pipeline.orchestration.run import _failure
from modelyard.pipeline.storage.objects import Objects
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.pipeline.training.outcome import failure, traceback_of
from modelyard.pipeline.training.workdir import (
    CHECKPOINTS,
    JOB,
    LOG,
    MISTAKE,
    Job,
    Mistake,
    Unfinished,
)

Launch = Callable[[str], int]
UNTIL_STOPPED = """
import os, signal, sys, time
from pathlib import Path

def stop(*_):
    Path(sys.argv[1], "checkpoint").touch()
    sys.exit(os.EX_TEMPFAIL)

signal.signal(signal.SIGTERM, stop)
print("running", flush=True)
{then}
while True:
    time.sleep(1)
"""
LAUNCHER = """
import sys
from pathlib import Path
from pipeline.ranks import small
from modelyard.pipeline.launchers.local import TorchLauncher
folder = Path(sys.argv[1])
TorchLauncher(threads=1).torchrun("planted", folder / "work", small(ranks=1), {})
"""


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """`launch(code)` → torchrun's exit code, of one rank that runs `code`; and its folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")

    def launch(code: str) -> int:
        (tmp_path / "planted.py").write_text(code)
        launcher, work = TorchLauncher(threads=1), tmp_path / "work"
        return launcher.torchrun("planted", work, small(ranks=1, restarts=1), {})

    return launch


def test_a_module_that_cannot_be_imported_is_a_mistake_and_not_tried_again(
    launch: Launch, tmp_path: Path
) -> None:
    count = f"open({str(tmp_path / 'tries')!r}, 'a').write('x')\n"
    code = launch(count + "def early():\n    import nothing_of_that_name\nearly()\n")
    said = failure(tmp_path / "work", code)
    assert f"rank 0 failed at {tmp_path / 'planted.py'}:3 in early: ModuleNotFoundError: " in said
    assert "No module named 'nothing_of_that_name'; its traceback is in " in said
    assert "in early" in traceback_of(tmp_path / "work")
    assert (tmp_path / "tries").read_text() == "x"
    assert "Traceback (most recent call last)" in (tmp_path / "work" / LOG).read_text()


@pytest.mark.slow
def test_a_rank_that_leaves_early_has_ended(launch: Launch) -> None:
    assert launch("import sys; sys.exit(0)") == 0


@pytest.fixture
def background() -> Iterator[None]:
    """As Dagster runs in a script's `&`: this process and its children ignore both signals."""
    both = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(each, signal.SIG_IGN) for each in both]
    yield
    for each, handler in zip(both, before, strict=True):
        signal.signal(each, handler)


@pytest.mark.parametrize(
    "where", ["foreground", pytest.param("background", marks=pytest.mark.slow)]
)
def test_torchrun_is_killed(
    launch: Launch, tmp_path: Path, request: pytest.FixtureRequest, where: str
) -> None:
    """Its ranks are told to stop."""
    if where == "background":
        request.getfixturevalue(where)
    code = launch(UNTIL_STOPPED.format(then="os.kill(os.getpgrp(), signal.SIGKILL)"))
    assert code == -signal.SIGKILL
    assert "stopped by SIGKILL; run it again to go on" in failure(tmp_path / "work", code)
    assert (tmp_path / "work" / "checkpoint").exists() and gone(tmp_path)


@pytest.mark.slow
def test_the_process_that_started_it_is_killed(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torchrun and its ranks are told to stop; another run waits until they are gone."""
    slow = UNTIL_STOPPED.replace("stop(*_):", "stop(*_):\n    time.sleep(3)")
    (tmp_path / "planted.py").write_text(slow.format(then=""))
    tests = str(Path(__file__).parents[1])
    path = f"{os.environ['PYTHONPATH']}:{tests}"
    starter = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert starter.stdout and "running" in starter.stdout.readline()
    starter.kill()
    starter.wait()
    job, work = Job(settings={}, signature=SIGNATURE), tmp_path / "work"
    monkeypatch.setattr(preparation, "GRACE", -10)
    with pytest.raises(UserError, match=f"another run trains in {work}; wait"):
        preparation.clear(work, job)
    monkeypatch.setattr(preparation, "_goes_on", lambda *_: True)
    monkeypatch.setattr(preparation, "GRACE", 60)
    preparation.clear(work, job)
    assert (work / "checkpoint").exists() and gone(tmp_path)


@pytest.mark.slow
def test_nothing_is_left_when_the_arrays_cannot_be_written(launch: Launch, tmp_path: Path) -> None:
    def full() -> None:
        raise OSError("No space left on device")

    launcher, work = TorchLauncher(threads=1), tmp_path / "work"
    with pytest.raises(OSError, match="No space left"):
        launcher.torchrun("planted", work, small(), {}, meanwhile=full)
    assert gone(tmp_path)


def raised(by: Path) -> Exception:
    """An exception that began in a file `by`, in a function of a library that it called."""
    code = "from json import loads\ndef read():\n    loads('{')\n"
    names: dict[str, object] = {}
    exec(compile(code, str(by), "exec"), names)
    try:
        names["read"]()  # pyrefly: ignore
    except ValueError as error:
        return error
    raise AssertionError


def raised_by_syntax(path: Path) -> Exception:
    try:
        compile("a = 1\nb = = 2", str(path), "exec")
    except SyntaxError as error:
        return error
    raise AssertionError


def test_the_place_of_a_mistake_is_the_innermost_line_of_the_own_code(tmp_path: Path) -> None:
    own = Path.cwd() / "src" / "flights"
    assert (
        Mistake.from_error(raised(own / "net.py"), 1, own).place == "src/flights/net.py:3 in read"
    )
    assert Mistake.from_error(raised(tmp_path / "net.py"), 1, own).place == ""
    broken = Mistake.from_error(raised_by_syntax(own / "net.py"), 0, own)
    assert str(broken) == "rank 0 failed at src/flights/net.py:2: SyntaxError: invalid syntax"
    assert "json/decoder.py" in Mistake.from_error(raised(own / "net.py"), 1, own).traceback


def test_a_mistake_in_one_pod_is_known_to_the_others(storage: str, tmp_path: Path) -> None:
    objects = Objects(storage).below("mistakes-of-pods")
    first, second = (Place(index, 2, 1, "", 0, tmp_path / str(index)) for index in range(2))
    for place in (first, second):
        place.folder.mkdir()
    assert _mistake(first, objects) is None
    made = Mistake(rank=1, message="ValueError: no", place="train.py:3 in main", traceback="…")
    (second.folder / MISTAKE).write_text(made.model_dump_json())
    assert _mistake(second, objects) == made == _mistake(first, objects)
    assert list(objects.sizes(MISTAKES)) == [f"{MISTAKES}/1"]


def test_make_train_says_what_a_training_that_may_go_on_says() -> None:
    @dg.asset
    def weights() -> None:
        raise Unfinished("training: stopped; run it again")

    result = dg.materialize([weights], raise_on_error=False)
    assert _failure(result, Path("log")) == "training: stopped; run it again"


@pytest.mark.parametrize("saved", [True, False])
def test_an_interrupted_make_train_says_whether_it_goes_on(
    saved: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    work = Workspace(tmp_path).training
    (work / CHECKPOINTS / "00002-000000007").mkdir(parents=True)
    if saved:
        (work / JOB).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setattr(train, "materialize", interrupted)
    assert cli.main(["train"]) == 130
    then = "; run it again to go on from its last checkpoint" if saved else ""
    assert capsys.readouterr().err == f"interrupted{then}\n"


POD_SETTINGS = {"namespace": "default", "image": "nowhere/training:1", "storage": "s3://b/f"}


def test_an_api_server_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(client.PLAIN, "_request_timeout", 0.1)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        at = f"http://127.0.0.1:{silent.getsockname()[1]}"
        (tmp_path / "kubeconfig").write_text(
            "{apiVersion: v1, kind: Config, current-context: c, users: [{name: u, user: {}}], "
            "contexts: [{name: c, context: {cluster: c, user: u}}], "
            f"clusters: [{{name: c, cluster: {{server: '{at}'}}}}]}}"
        )
        there = client.JobClient(KubernetesSettings.model_validate(POD_SETTINGS))
        with pytest.raises(
            ConnectionError, match="kubernetes: cannot read Job t: .*[Tt]imed? ?out"
        ):
            there.job("t")


def test_a_job_that_lacks_its_service_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pods would never find one another."""
    monkeypatch.setattr(client, "LEAVING", 0)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    settings = KubernetesSettings.model_validate(POD_SETTINGS)
    job, service, policy = objects(
        ClusterTraining(name="t", module="m", settings=settings, ranks=1, restarts=0, variables={})
    )
    standing = JobController(tmp_path / "pods")
    try:
        (tmp_path / "kubeconfig").write_text(standing.kubeconfig())
        there = client.JobClient(settings)
        there.create([job, service, policy])
        assert there.job("t")
        there.delete("t")
        until = time.monotonic() + 60
        while there.job("t") and time.monotonic() < until:
            time.sleep(0.05)
        assert there._create(service)  # of somebody else
        with pytest.raises(UserError, match="a Service t is there already, and of no training"):
            there.create([job, service, policy])
        while there.job("t") and time.monotonic() < until:
            time.sleep(0.05)
        assert there.job("t") is None
    finally:
        standing.stop()
