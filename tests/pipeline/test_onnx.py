"""The same graph as ONNX, where it can be had, and never another one."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from modelyard.pipeline.packaging import onnx_export
from modelyard.pipeline.packaging.onnx_export import write_onnx

NUMBERS = np.array([[1.0, np.nan], [2.0, 0.5], [-3.0, 4.0]], dtype=np.float32)
CATEGORIES = np.array([[0], [1], [2]], dtype=np.int64)


class Known(torch.nn.Module):
    def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        missing = numbers.isnan()
        return torch.where(missing, 0.0, numbers).sum(1).sigmoid() + categories[:, 0]


class Unknown(torch.nn.Module):
    def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(numbers.nan_to_num()).sum(1) + categories[:, 0]


class NumbersOnly(torch.nn.Module):
    def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        return numbers.nan_to_num().sum(1)


def program(folder: Path, model: torch.nn.Module, categories: np.ndarray = CATEGORIES) -> Path:
    rows = torch.export.Dim("rows", min=1)
    example = torch.from_numpy(NUMBERS), torch.from_numpy(categories)
    exported = torch.export.export(model, example, dynamic_shapes=({0: rows}, {0: rows}))
    torch.export.save(exported, folder / "model.pt2")
    return folder / "model.pt2"


@pytest.mark.parametrize(
    ("model", "categories"),
    [(Known(), CATEGORIES), (NumbersOnly(), CATEGORIES), (NumbersOnly(), CATEGORIES[:, :0])],
)
def test_the_graph_is_translated(
    model: torch.nn.Module, categories: np.ndarray, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    path = tmp_path / "model.onnx"
    assert write_onnx(program(tmp_path, model, categories), path, NUMBERS, categories)
    found = onnx_export._score(path.read_bytes(), NUMBERS[:1], categories[:1])  # any N
    expected = model(torch.from_numpy(NUMBERS[:1]), torch.from_numpy(categories[:1]))
    assert found == pytest.approx(expected.numpy(), abs=1e-6)
    assert capfd.readouterr().out == ""


def test_what_onnx_cannot_express_is_left_to_torch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model.onnx"
    with caplog.at_level(logging.WARNING):
        assert not write_onnx(program(tmp_path, Unknown()), path, NUMBERS, CATEGORIES)
    assert "torch will serve" in caplog.text and not path.exists()


def test_a_translation_that_scores_otherwise_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = onnx_export._score
    monkeypatch.setattr(onnx_export, "_score", lambda *given: true(*given) + 0.001)
    path = tmp_path / "model.onnx"
    assert not write_onnx(program(tmp_path, Known()), path, NUMBERS, CATEGORIES)
    assert "not those of model.pt2" in caplog.text and not path.exists()
