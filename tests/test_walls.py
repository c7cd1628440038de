"""The rooms never import one another (contracts in pyproject.toml)."""

import shutil
import sys
from pathlib import Path

import pytest
from support import ROOT, run

LINTER = Path(sys.executable).with_name("lint-imports")


def test_walls_stand() -> None:
    run(LINTER, "--no-cache", cwd=ROOT)


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("dagster_project/modelyard/pipeline", "import modelyard.serving\n"),
        ("bentos/modelyard/serving/codec", "import dagster\n"),
        ("bentos/modelyard/serving/observability", "import modelyard.serving.testing\n"),
        ("bentos/modelyard/serving", "'on no floor'\n"),
        ("argo/modelyard/delivery", "import torch\n"),
        ("common/modelyard/documents", "import polars\n"),
        ("common/modelyard/coding", "import pyarrow\n"),
    ],
)
def test_a_hole_in_a_wall_is_found(room: str, line: str, tmp_path: Path) -> None:
    for part in ("common", "dagster_project", "bentos", "argo", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    (tmp_path / room / "hole.py").write_text(line)
    path = ":".join(str(tmp_path / p) for p in ("common", "dagster_project", "bentos", "argo"))
    printed = run(LINTER, "--no-cache", cwd=tmp_path, check=False, PYTHONPATH=path)
    assert "1 broken" in printed, printed
