"""Scores of an exported model are the same on any number of cores."""

from pathlib import Path

import numpy as np
import torch

from modelyard.pipeline.evaluation.scoring import load

ROWS = 20_001


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = 17, 128, 64, 1
        self.layers = torch.nn.ModuleList(map(torch.nn.Linear, sizes, sizes[1:]))

    def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            numbers = layer(numbers).tanh()
        return numbers[:, 0] + categories[:, 0]


def test_threads_do_not_change_a_score(tmp_path: Path) -> None:
    numbers = torch.randn(ROWS, 17)
    categories = torch.zeros(ROWS, 1, dtype=torch.int64)
    rows = torch.export.Dim("rows", min=1)
    program = torch.export.export(
        Network(), (numbers, categories), dynamic_shapes=({0: rows}, {0: rows})
    )
    torch.export.save(program, tmp_path / "model.pt2")
    score = load(tmp_path / "model.pt2")
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(score(numbers.numpy(), categories.numpy()))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert all(np.array_equal(found[0], other) for other in found[1:])
