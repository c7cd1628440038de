"""Where a rank begins: joins the others, finds its work folder, and leaves as it is told to."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from modelyard.pipeline.config.settings import TrainingSettings
from modelyard.pipeline.training.outcome import recorded
from modelyard.pipeline.training.ranks import Stopped, idle_gpus, joined
from modelyard.pipeline.training.reporting import Reporter
from modelyard.pipeline.training.run import Run
from modelyard.pipeline.training.workdir import JOB, Job

OwnSettings = TypeVar("OwnSettings", bound=TrainingSettings)


@contextmanager
def session(settings: type[OwnSettings]) -> Iterator[Run[OwnSettings]]:
    """One rank's view of the training whose work folder is the first argument.

    Joins the process group (nccl on GPUs, else gloo), seeds torch, and reports to Dagster
    from rank 0 only.
    """
    folder = Path(sys.argv[1])
    job = Job.model_validate_json((folder / JOB).read_bytes())
    own = settings.model_validate(job.settings)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with joined(own.device) as ranks:
        signal.signal(signal.SIGTERM, ranks.stop)
        torch.manual_seed(own.seed)
        reporter = Reporter(ranks.rank, ranks.count, own.epochs)
        reporter.restarted(recorded(folder))
        if gpus := idle_gpus(own.device, ranks):
            reporter.warn(
                f"{gpus} GPUs are too few for {ranks.count} ranks, which train on the CPU"
            )
        try:
            yield Run(folder, own, job.signature, ranks, reporter)
            reporter.close()  # not after a failure: rank 0 may be started again
        except Stopped:
            sys.exit(os.EX_TEMPFAIL)
