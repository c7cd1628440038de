"""A deprecated use is told with its file and line."""

import subprocess
import sys
import warnings
from pathlib import Path

from modelyard.documents.deprecation import PlatformDeprecation, deprecated

PLATFORM = """
from modelyard.documents.deprecation import deprecated

def inner():
    deprecated("report()", "call validated(loss)", "0.4.0")

def report():
    inner()
"""


def test_it_names_the_teams_line_however_deep_the_platform_warns(tmp_path: Path) -> None:
    platform = {"__name__": "modelyard.pipeline.sample"}
    exec(compile(PLATFORM, "platform.py", "exec"), platform)
    own = tmp_path / "train.py"
    own.write_text("x = 1\n\nreport()\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        team = {"__name__": "flight_delay.train", "report": platform["report"]}
        exec(compile(own.read_text(), str(own), "exec"), team)
    (warning,) = caught
    assert (warning.filename, warning.lineno) == (str(own), 3)
    assert warning.category is PlatformDeprecation
    for word in ("report()", "0.4.0", "call validated(loss)"):
        assert word in str(warning.message)


def test_a_key_of_a_file_is_named_by_its_own_line() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        deprecated("patience", "write stop_after", "0.4.0", place=(Path("config.yaml"), 7))
    assert [(each.filename, each.lineno) for each in caught] == [("config.yaml", 7)]


def test_it_is_shown_where_nothing_is_said_about_warnings() -> None:
    code = "from modelyard.documents.deprecation import deprecated; deprecated('a', 'b', '0.4.0')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "<string>:1: PlatformDeprecation: a is deprecated" in done.stderr
