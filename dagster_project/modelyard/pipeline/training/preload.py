"""What ranks are forked with (`torchrun`): all that every training imports, and nothing run.

The first optimizer imports torch._dynamo, as large as the rest of torch.
"""

import ctypes
import signal

from modelyard.pipeline.training.importing import importing

PR_SET_PDEATHSIG = 1
# This process goes when torchrun goes, however it ends; then Linux tells the ranks, by SIGINT.
getattr(ctypes.CDLL(None), "prctl", lambda *_: None)(PR_SET_PDEATHSIG, signal.SIGTERM)

with importing():
    import torch._dynamo  # noqa: F401
    import torch.distributed.run  # noqa: F401

    import modelyard.pipeline.training.session  # noqa: F401
