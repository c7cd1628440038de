"""One rank of a training module: what torchrun starts, and starts again if it dies.

After an exception of its own there's nothing to be gained from that: it is kept as
`mistake.json`, and the ranks leave at once. The loss of another rank is none.
"""

import importlib.util
import os
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path

from modelyard.documents.files import replaced
from modelyard.pipeline.training.workdir import MISTAKE, Mistake

LINGER = 1.0
"""seconds; torchrun blames the rank that it sees gone first, which is not to be one that has
merely lost another"""


def main() -> None:
    module, folder = sys.argv[1:]
    mistake = Path(folder) / MISTAKE
    if mistake.exists():
        sys.exit(os.EX_SOFTWARE)
    # What Linux sends when the process that ranks are forked from is gone.
    signal.signal(signal.SIGINT, lambda *_: signal.raise_signal(signal.SIGTERM))
    sys.argv = [module, folder]
    try:
        from torch.distributed.elastic.multiprocessing.errors import record

        # Recorded: torchrun learns of an exception, and stops the other ranks.
        record(runpy.run_module)(module, run_name="__main__", alter_sys=True)
    except SystemExit as left:
        if left.code:  # without a code, torchrun would wait for what the rank returns
            raise
    except Exception as error:
        traceback.print_exc()
        _explain(error, module, mistake)
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _explain(error: Exception, module: str, mistake: Path) -> None:
    if _lost_a_peer(error):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(LINGER)
        return
    spec = importlib.util.find_spec(module.partition(".")[0])
    own = Path(spec.origin).parent if spec and spec.origin else Path.cwd()
    said = Mistake.from_error(error, int(os.environ["RANK"]), own)
    with replaced(mistake) as new:
        new.write_text(said.model_dump_json())


def _lost_a_peer(error: BaseException) -> bool:
    """Whether a collective failed because another rank is gone, or slower than PATIENCE."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (
        type(error) is RuntimeError and any(word in str(error) for word in ("gloo", "NCCL"))
    )


if __name__ == "__main__":
    main()
