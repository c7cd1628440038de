"""See `command`."""

import signal
import sys

from modelyard.serving.batch.command import main

if __name__ == "__main__":
    # A scheduler's stop takes the temporary files along, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
