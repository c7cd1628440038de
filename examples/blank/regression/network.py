"""The network, from raw inputs to a score: all preprocessing is inside of it."""

import torch
from modelyard.documents import Signature
from modelyard.pipeline import Embeddings, Standardise
from torch import Tensor, nn

from .train import Settings


class Network(nn.Module):
    """(numbers float32 [N, n], categories int64 [N, c]) → predicted value [N]."""

    def __init__(self, signature: Signature, settings: Settings) -> None:
        super().__init__()
        self.standardise = Standardise(signature)
        self.embed = Embeddings(signature, settings.embedding)
        widths = (self.standardise.width + self.embed.width, *settings.hidden)
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(settings.dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        inputs = torch.cat([self.standardise(numbers), self.embed(categories)], dim=1)
        return self.layers(inputs).squeeze(1)


def loss(value: Tensor, target: Tensor) -> Tensor:
    """Mean over rows; `value` and `target` are float32 [N], in the target's unit.

    Huber's loss: quadratic near the target, linear beyond `delta`, so that a few extreme
    rows do not rule the rest.
    """
    return nn.functional.huber_loss(value, target, delta=10.0)


def score(value: Tensor) -> Tensor:
    """What the exported model gives: the value [N]."""
    return value
