"""For tests of a service: a package for any signature without training, and a real server.

A part of the public API, as `modelyard.serving` is: a model repo's tests import these names.
"""

from modelyard.serving.testing.packages import draw_rows, write_package
from modelyard.serving.testing.server import Server, serve, stop

__all__ = ["Server", "draw_rows", "serve", "stop", "write_package"]
