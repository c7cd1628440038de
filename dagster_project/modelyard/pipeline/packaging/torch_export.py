"""From weights to `model.pt2`, and from `model.pt2` to scores."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from modelyard.coding import draw_arrays, same_scores
from modelyard.documents import Signature, UserError
from modelyard.pipeline.evaluation.scoring import load

if TYPE_CHECKING:
    from torch import Tensor, nn


def export(
    network: "nn.Module",
    score: "Callable[[Tensor], Tensor]",
    weights: Path,
    signature: Signature,
    path: Path,
) -> int:
    """Write `(numbers [N, n], categories [N, c]) -> score` with any N >= 1, on the CPU.

    Returns:
        the number of parameters.

    Raises:
        UserError: the weights do not fit the network, or the network cannot be exported.
    """
    import torch
    from torch import Tensor, nn

    class Scorer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
            return score(self.network(numbers, categories))

    try:
        network.load_state_dict(torch.load(weights, weights_only=True))
    except (RuntimeError, FileNotFoundError) as error:
        raise UserError(f"{weights}: {error}; train again") from None
    model = Scorer().eval()
    numbers = torch.zeros(2, len(signature.numbers))
    categories = torch.zeros(2, len(signature.categories), dtype=torch.int64)
    rows = torch.export.Dim("rows", min=1)
    try:
        program = torch.export.export(
            model, (numbers, categories), dynamic_shapes=({0: rows}, {0: rows})
        )
    except Exception as error:  # torch.export raises many kinds
        raise UserError(
            f"network.py cannot be exported: {type(error).__name__}: {str(error).strip()}. "
            "forward() must work for any number of rows, without branches on values"
        ) from error
    for node in program.graph.nodes:
        # Where the code lay when it was traced: equal models would differ by it.
        node.meta.pop("stack_trace", None)
    archive = BytesIO()  # given a path, torch writes its (temporary) name into the file
    torch.export.save(program, archive)
    path.write_bytes(archive.getvalue())
    _compare(model, path, signature)
    return sum(parameter.numel() for parameter in network.parameters())


def _compare(model: "nn.Module", path: Path, signature: Signature) -> None:
    """The saved program gives what the network gives, for one row and for several."""
    import torch

    for rows in (1, 7):
        numbers, categories = draw_arrays(signature, rows, missing=0)
        with torch.no_grad():
            expected = model(torch.from_numpy(numbers), torch.from_numpy(categories)).numpy()
        found = load(path)(numbers, categories)
        if not same_scores(found, expected):
            raise UserError("the exported model differs from the network; look at its forward()")
