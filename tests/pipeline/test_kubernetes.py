"""A training in the pods of an Indexed Job: real ranks, real S3, a stand-in for the cluster.

With KUBECONFIG, MODELYARD_TRAINING_IMAGE and MODELYARD_TRAINING_STORAGE set, the last test
talks to a real cluster.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pipeline.job_controller import JOBS, JobController
from pipeline.ranks import Trained, train

from modelyard.documents import UserError
from modelyard.pipeline.config.kubernetes import KubernetesSettings
from modelyard.pipeline.launchers.kubernetes import launcher
from modelyard.pipeline.launchers.kubernetes.client import culprit, last_words, waiting
from modelyard.pipeline.launchers.kubernetes.launcher import JobFollower, KubernetesLauncher
from modelyard.pipeline.storage.objects import Objects
from modelyard.pipeline.training.workdir import LOG, WEIGHTS, History

pytestmark = pytest.mark.xdist_group("training-pods")
SETTINGS = {"namespace": "default", "image": "ghcr.io/acme/training:1", "pods": 2}

Train = Callable[..., History]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobController]:
    standing = JobController(tmp_path / "pods", OMP_NUM_THREADS="1")
    path = tmp_path / "kubeconfig"
    path.write_text(standing.kubeconfig())
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(launcher, "POLL", 0.1)
    yield standing
    standing.stop()


@pytest.fixture
def bucket(storage: str, request: pytest.FixtureRequest) -> Objects:
    return Objects(storage).below(re.sub(r"\W", "-", request.node.name))


@pytest.fixture
def remote(cluster: JobController, bucket: Objects, tmp_path: Path) -> Train:
    """`remote(fault)`: train in two pods, in `tmp_path/work`."""

    def remote(fault: str = "", **changes: Any) -> History:
        settings = KubernetesSettings.model_validate({**SETTINGS, "storage": bucket.uri, **changes})
        return train(tmp_path, fault, launcher=launcher.launcher(settings))

    return remote


def when(condition: Callable[[], object], *actions: Callable[[], object]) -> None:
    """Beside the test, which ends with the training."""

    def watch() -> None:
        while not condition():
            time.sleep(0.02)
        for action in actions:
            action()

    threading.Thread(target=watch, daemon=True).start()


def checkpoints(bucket: Objects) -> set[str]:
    return {name for name in bucket.sizes() if name.endswith("progress.json")}


def losses(history: History) -> list[float]:
    return [epoch.validation_loss for epoch in history.epochs]


@pytest.fixture(scope="session")
def local(uninterrupted: Trained) -> History:
    """The same training by two ranks of this machine."""
    return uninterrupted.history


@pytest.mark.slow
def test_two_pods_train_as_two_ranks_of_one_machine(
    remote: Train, cluster: JobController, bucket: Objects, local: History,
    tmp_path: Path, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    history = remote()
    assert history.ranks == 2 and losses(history) == losses(local)
    assert (tmp_path / "work" / WEIGHTS).exists()
    printed = capfd.readouterr()
    assert [printed.out.count(f"  epoch   {n}/3") for n in (1, 2, 3)] == [1, 1, 1]
    assert len(cluster.created) == 2
    # Nothing is left of it.
    assert bucket.sizes() == {}
    assert cluster.objects == {} or not [key for key in cluster.objects if key[:3] == JOBS]


@pytest.mark.slow
def test_a_failed_rank_ends_the_job_and_is_named(
    remote: Train, cluster: JobController, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="rank 1 failed at .*: ValueError: rank 1 ") as error:
        remote("raises")
    assert " in fault: " in str(error.value) and ", in fault" in capfd.readouterr().err
    assert "\n" not in str(error.value) and str(tmp_path / "work" / LOG) in str(error.value)
    assert "Traceback" in (tmp_path / "work" / LOG).read_text()
    assert len(cluster.created) == 2  # it would fail again


@pytest.mark.slow
def test_pods_that_go_away_cost_nothing(
    remote: Train, cluster: JobController, bucket: Objects, local: History,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """One is preempted; another is killed as soon as the training has gone on."""

    def when_another_took_its_place() -> None:
        before = checkpoints(bucket)
        when(lambda: checkpoints(bucket) - before, lambda: cluster.kill(0))

    when(lambda: checkpoints(bucket), lambda: cluster.preempt(1))
    when(lambda: len(cluster.created) == 3, when_another_took_its_place)
    history = remote()
    assert losses(history) == losses(local)
    assert len(cluster.created) > 3
    assert "going on from the checkpoint" in capfd.readouterr().out


def fail_once(monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> threading.Event:
    """Once the event is set, the launcher's next look at the storage ends so."""
    event, relay = threading.Event(), JobFollower._relay

    def relayed(self: JobFollower) -> None:
        relay(self)
        if event.is_set():
            event.clear()
            raise error

    monkeypatch.setattr(JobFollower, "_relay", relayed)
    return event


@pytest.mark.slow
def test_a_launcher_that_goes_away_and_one_that_is_interrupted(
    remote: Train, cluster: JobController, bucket: Objects, local: History,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The next one follows the Job; Ctrl-C deletes it, and the one after that goes on."""
    when(lambda: checkpoints(bucket), fail_once(monkeypatch, OSError).set)
    with pytest.raises(UserError, match="training: object storage: .*run it again to go on"):
        remote()
    fail_once(monkeypatch, KeyboardInterrupt).set()
    with pytest.raises(BaseException, match="|interrupt"):
        remote()
    (job,) = (value for key, value in cluster.objects.items() if key[:3] == JOBS)
    assert job["metadata"]["deletionTimestamp"] and len(cluster.created) == 2
    printed = capfd.readouterr().out
    assert "which is there already" in printed and "run it again to go on" in printed
    history = remote()
    assert "going on from the checkpoint" in capfd.readouterr().out
    assert losses(history) == losses(local)


def test_an_image_of_other_code_is_refused(remote: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "code_hash", lambda module: "other")
    with pytest.raises(UserError, match="the image holds another code .* kubernetes.image"):
        remote()


def test_an_image_that_cannot_be_had(
    remote: Train, cluster: JobController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "STUCK", 0)
    with pytest.raises(UserError, match="a pod can't start: ImagePullBackOff: no such image"):
        remote(image="nowhere/training:1")


def test_a_storage_or_a_cluster_that_is_not_there(
    remote: Train, bucket: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="training: object storage: .*NO_SUCH_BUCKET"):
        remote(storage=bucket.uri.replace("//bucket", "//nowhere"))
    with pytest.raises(UserError, match="kubernetes: cannot read Job planted-.*: you may not"):
        remote(namespace="forbidden")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(UserError, match="kubernetes: no cluster: .*set KUBECONFIG"):
        remote()


def pod(index: int = 0, **ended: Any) -> dict[str, Any]:
    status = {"name": "training", "state": {"terminated": ended} if ended else {}}
    annotations = {"batch.kubernetes.io/job-completion-index": str(index)}
    phase = "Failed" if ended else "Pending"
    return {
        "metadata": {"name": f"pod-{index}", "annotations": annotations},
        "status": {"phase": phase, "containerStatuses": [status]},
    }


def test_the_pod_that_a_failure_began_with() -> None:
    killed = pod(0, exitCode=137, reason="OOMKilled", finishedAt="2")
    lost = pod(1, exitCode=75, reason="Error", finishedAt="1")
    wrong = pod(2, exitCode=70, message="Warning\nrank 3 failed", finishedAt="3")
    assert culprit([killed, lost]) is killed and culprit([killed, lost, wrong]) is wrong
    assert culprit([lost]) is None
    assert "raise config.yaml: kubernetes.memory" in last_words(killed)
    assert last_words(wrong) == "rank 3 failed"
    assert last_words(pod(0, exitCode=1, reason="Error")) == "exited with 1 (Error)"


def test_why_the_ranks_do_not_run_yet() -> None:
    job: dict[str, Any] = {"spec": {"suspend": True, "completions": 2}}
    assert "has not admitted" in waiting(job, [])
    job["spec"]["suspend"] = False
    assert waiting(job, []) == "waiting: 2 pods not created yet"
    unscheduled = pod(1)
    message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    scheduled = {"type": "PodScheduled", "status": "False", "message": message}
    unscheduled["status"]["conditions"] = [scheduled]
    assert waiting(job, [pod(0), unscheduled]) == "waiting: pod 0: its container starts"
    assert waiting(job, [unscheduled, unscheduled]) == f"waiting: pod 1: {message}"


NEEDED = ("KUBECONFIG", "MODELYARD_TRAINING_IMAGE", "MODELYARD_TRAINING_STORAGE")


@pytest.mark.skipif(
    not all(os.environ.get(name) for name in NEEDED),
    reason=f"needs a cluster, an image in its reach and a bucket: set {', '.join(NEEDED)}",
)
def test_a_real_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image holds `planted.py` (`pipeline.ranks.MODULE`) on its PYTHONPATH."""
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = SETTINGS | {
        "image": os.environ["MODELYARD_TRAINING_IMAGE"],
        "storage": os.environ["MODELYARD_TRAINING_STORAGE"],
        "namespace": os.environ.get("MODELYARD_TRAINING_NAMESPACE", "default"),
    }
    history = train(tmp_path, launcher=KubernetesLauncher(cluster=settings))
    assert history.ranks == 2 and len(history.epochs) == 3
