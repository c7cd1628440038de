"""What ranks are forked with (`torchrun`): all that every training imports, and nothing run.

The first optimizer imports torch._dynamo, as large as the rest of torch.
"""

import ctypes
import gc
import signal

PR_SET_PDEATHSIG = 1
# This process goes when torchrun goes, however it ends; then Linux tells the ranks, by SIGINT.
getattr(ctypes.CDLL(None), "prctl", lambda *_: None)(PR_SET_PDEATHSIG, signal.SIGTERM)
gc.disable()  # an import makes hardly any garbage, and the search for it takes a fifth of the time

import torch._dynamo  # noqa: E402, F401
import torch.distributed.run  # noqa: E402, F401

import modelyard.pipeline.training  # noqa: E402, F401

gc.enable()
gc.freeze()  # else a rank's first search writes to, and so copies, every page that it shares
