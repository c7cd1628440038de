"""The OpenAPI document holds against requests made from it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from modelyard.documents.signature import Task
from modelyard.serving.testing import Server

pytestmark = pytest.mark.xdist_group("serving")

Servers = Callable[[Task], Server]


# That columns must be of one length can't be said in a schema; 413 is a refusal, too.
SCHEMATHESIS = """
[checks]
positive_data_acceptance.enabled = false
negative_data_rejection.expected-statuses = [400, 405, 413, 415, 422]
"""


def test_schemathesis_finds_no_5xx_and_no_undocumented_answer(
    server: Servers, tmp_path: Path
) -> None:
    (tmp_path / "schemathesis.toml").write_text(SCHEMATHESIS)
    command = [
        Path(sys.executable).with_name("schemathesis"), "--config-file", "schemathesis.toml",
        "run", f"{server('binary').url}/docs.json", "--max-examples", "30", "--max-time", "15",
        "--generation-database", "none", "--seed", "1", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
