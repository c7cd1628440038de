"""One rank of a training module: what torchrun starts, and starts again if it dies.

    python -m modelyard.pipeline.rank MODULE FOLDER

After an exception of its own there's nothing to be gained from that: the ranks leave at once.
"""

import os
import runpy
import sys
from pathlib import Path

from modelyard.pipeline.job import MISTAKE


def main() -> None:
    module, folder = sys.argv[1:]
    if (Path(folder) / MISTAKE).exists():
        sys.exit(os.EX_SOFTWARE)
    sys.argv = [module, folder]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
