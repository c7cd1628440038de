"""`python -m modelyard.serving.build`: see `modelyard.serving.bento.build`."""

import sys

from modelyard.serving.bento.build import main

if __name__ == "__main__":
    sys.exit(main())
