"""TorchLauncher on Kubernetes: the same training module, in the pods of an Indexed Job.

A training is named by its fingerprint (code, data, settings), and so are its Job and its
folder in object storage. Asked for again, it's followed if it still runs, collected if it
has ended meanwhile, and goes on from its last checkpoint if it was stopped.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from modelyard.documents import Signature, UserError
from modelyard.pipeline.config.kubernetes import KubernetesSettings
from modelyard.pipeline.config.settings import TrainingSettings
from modelyard.pipeline.launchers.kubernetes.client import (
    JobClient,
    condition,
    culprit,
    hopeless,
    index_of,
    last_words,
    waiting,
)
from modelyard.pipeline.launchers.kubernetes.entrypoint import (
    CODE,
    MESSAGES,
    MISTAKES,
    OUTPUT,
    code_hash,
)
from modelyard.pipeline.launchers.kubernetes.manifests import (
    LABEL,
    ClusterTraining,
    Manifest,
    objects,
)
from modelyard.pipeline.launchers.local import TorchLauncher
from modelyard.pipeline.launchers.preparation import check, prepare
from modelyard.pipeline.storage.objects import STORAGE, Objects, Stream
from modelyard.pipeline.training.outcome import failure, traceback_of
from modelyard.pipeline.training.workdir import (
    HISTORY,
    JOB,
    LOG,
    MISTAKE,
    REPORTS,
    WEIGHTS,
    History,
    Job,
    Unfinished,
    read_history,
)

POLL = 2.0
"""seconds between two looks at the Job"""
STUCK = 180
"""seconds that a pod may fail to start in, by its image or its configuration"""
SILENT = 300
"""seconds that the API server or the storage may not answer for"""
GOING = 300
"""seconds that an older Job's pods have to go; more than their grace period"""


def launcher(settings: KubernetesSettings | None) -> TorchLauncher:
    """By `kubernetes:` of config.yaml; on this machine where there is none."""
    if settings is None:
        return TorchLauncher()
    return KubernetesLauncher(cluster=settings.model_dump(mode="json"))


class KubernetesLauncher(TorchLauncher):
    """Runs a training module in a cluster; `cluster` is `kubernetes:` of config.yaml.

    Ctrl-C deletes the Job: its pods write a checkpoint and end.
    """

    cluster: dict[str, Any]

    def run(
        self,
        context: dg.AssetExecutionContext,
        module: str,
        folder: Path,
        settings: TrainingSettings,
        signature: Signature,
        train: Path,
        validation: Path,
    ) -> History:
        """Train and return how it went; the weights lie in `folder`.

        Raises:
            UserError: the settings do not fit the data, the cluster or the storage refused, or
                the training failed for good. A rank's exception is named.
        """
        own = KubernetesSettings.model_validate(self.cluster)
        check(settings, train, validation)
        prepare(module, folder, settings, signature, train, validation)
        job = Job.model_validate_json((folder / JOB).read_bytes())
        project = module.partition(".")[0].replace("_", "-")[:40].rstrip("-")
        name = f"{project}-{job.fingerprint[:12]}"
        with _storage_errors(), _reported(context, folder / REPORTS) as variables:
            storage = Objects(own.storage).below(name)
            known = {STORAGE: storage.uri, CODE: code_hash(module), **variables}
            training = ClusterTraining(
                name=name, module=module, settings=own, ranks=settings.ranks,
                restarts=settings.restarts, variables=known,
            )  # fmt: skip
            try:
                JobFollower(JobClient(own), storage, training, folder).run()
            except UserError:
                if (folder / LOG).exists():
                    context.log.error(traceback_of(folder))
                raise
        return read_history(folder)


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except ConnectionError as error:  # of the API server
        raise Unfinished(f"training: {error}; run it again to go on") from None
    except OSError as error:
        raise Unfinished(f"training: object storage: {error}; run it again to go on") from None


@contextmanager
def _reported(context: dg.AssetExecutionContext, path: Path) -> Iterator[dict[str, str]]:
    """Dagster reads the pods' messages from a local file; what rank 0 needs for it."""
    path.unlink(missing_ok=True)
    path.touch()
    with dg.open_pipes_session(
        context=context,
        context_injector=dg.PipesEnvContextInjector(),
        message_reader=dg.PipesFileMessageReader(str(path), cleanup_file=False),
    ) as session:
        variables = session.get_bootstrap_env_vars()
        yield {k: v for k, v in variables.items() if k == "DAGSTER_PIPES_CONTEXT"}


class JobFollower:
    """One training: its Job from its start, or from where it is, to its end."""

    def __init__(
        self, cluster: JobClient, storage: Objects, training: ClusterTraining, folder: Path
    ) -> None:
        self._cluster, self._storage, self._training = cluster, storage, training
        self._folder = folder
        self._output, self._messages = Stream(storage, OUTPUT), Stream(storage, MESSAGES)
        self._said, self._stuck_since = "", 0.0
        self._heard = self._relayed = time.monotonic()

    def run(self) -> None:
        """Raises UserError where the training fails for good."""
        if HISTORY in self._storage.sizes():
            self._say("it has ended meanwhile")
        else:
            self._start()
            try:
                self._follow()
            except (UserError, OSError):  # the Job has failed, or goes on
                raise
            except BaseException:  # Ctrl-C here, or a run that is ended in Dagster
                self._say("stopping: the pods write a checkpoint; run it again to go on")
                self._cluster.delete(self._training.name)
                raise
        self._collect()

    def _start(self) -> None:
        name, cluster = self._training.name, self._cluster
        found = cluster.job(name)
        if found and (condition(found, "Failed") or found["metadata"].get("deletionTimestamp")):
            self._say("waiting for an older Job of this training to go")
            self._remove()
            found = None
        if found:
            self._say(f"following Job {name}, which is there already")
            cluster.complete(found, objects(self._training)[1:])
            return
        for data in ("train", "validation"):
            self._storage.upload_folder(self._folder / data, data)
        self._storage.upload(self._folder / JOB, JOB)
        for left in (OUTPUT, MESSAGES, MISTAKES):
            self._storage.delete(left)
        self._say(f"Job {name} in namespace {cluster.namespace}")
        cluster.create(objects(self._training))

    def _remove(self) -> None:
        """Delete the Job and wait until its pods are gone: they'd join the new one's ranks."""
        name, deadline = self._training.name, time.monotonic() + GOING
        self._cluster.delete(name)
        while self._cluster.job(name):
            if time.monotonic() > deadline:
                raise UserError(
                    f"training: the pods of Job {name} do not end; if their node is gone, run "
                    f"kubectl delete pods -l {LABEL}={name} --force, then this again"
                )
            time.sleep(POLL)

    def _follow(self) -> None:
        while True:
            state = self._look()
            self._relay()
            if state:
                job, pods = state
                if condition(job, "Complete"):
                    return self._relay()
                if failed := condition(job, "Failed"):
                    raise self._failure(failed, pods)
                self._say(waiting(job, pods))
                self._give_up_if_stuck(pods)
            time.sleep(POLL)

    def _look(self) -> tuple[Manifest, list[Manifest]] | None:
        """The Job and its pods; None while the API server is silent."""
        name = self._training.name
        try:
            job, pods = self._cluster.job(name), self._cluster.pods(name)
        except (ConnectionError, UserError) as error:  # silence, or a token that has expired
            if isinstance(error, UserError) or time.monotonic() - self._heard > SILENT:
                raise Unfinished(f"{error}; the Job goes on: run this again to follow it") from None
            return None
        self._heard = time.monotonic()
        if job is None:
            raise Unfinished(f"training: Job {name} was deleted; run it again to go on")
        return job, pods

    def _relay(self) -> None:
        """What the ranks printed, to the terminal; what rank 0 reported, to Dagster."""
        try:
            for line in self._output.read().splitlines():
                print(f"  {line}", flush=True)
            messages = self._messages.read()
        except OSError:
            if time.monotonic() - self._relayed > SILENT:
                raise
            return  # what is new stays new
        self._relayed = time.monotonic()
        if messages:
            with (self._folder / REPORTS).open("a") as file:
                file.write(messages)

    def _say(self, text: str) -> None:
        if text and text != self._said:
            print(f"  {text}", flush=True)
        self._said = text

    def _give_up_if_stuck(self, pods: list[Manifest]) -> None:
        problems = [p for pod in pods if (p := hopeless(pod))]
        if not problems:
            self._stuck_since = 0.0
            return
        self._stuck_since = self._stuck_since or time.monotonic()
        if time.monotonic() - self._stuck_since > STUCK:
            self._cluster.delete(self._training.name)
            raise UserError(f"training: a pod can't start: {problems[0]}")

    def _failure(self, why: Manifest, pods: list[Manifest]) -> UserError:
        """What to raise; the log of the pod that it began with goes to the work folder."""
        self._relay()
        pod, path = culprit(pods), self._folder / LOG
        path.write_text(self._cluster.log(pod["metadata"]["name"]) if pod else "")
        if told := list(self._storage.sizes(MISTAKES)):
            self._storage.download(told[0], self._folder / MISTAKE)
            if pod is None:
                path.write_text(traceback_of(self._folder))
            return UserError(failure(self._folder))
        if pod is None:
            said = why.get("message", why["reason"])
            return Unfinished(f"training: {said}; run it again to go on")
        said = f"training: pod {index_of(pod)}: {last_words(pod)}; its traceback is in {path}"
        return UserError(said)

    def _collect(self) -> None:
        for name in (WEIGHTS, HISTORY):
            self._storage.download(name, self._folder / name)
        self._cluster.delete(self._training.name)
        self._storage.remove(HISTORY)  # first: with it, the rest would count as a result
        self._storage.delete()
