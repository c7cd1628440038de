"""The network, from raw inputs to a score: all preprocessing is inside of it."""

import torch
from modelyard.documents import Signature
from modelyard.pipeline import Embeddings, Standardise
from torch import Tensor, nn

from .train import Settings


class Network(nn.Module):
    """(numbers float32 [N, n], categories int64 [N, c]) → logit of each class [N, classes]."""

    def __init__(self, signature: Signature, settings: Settings) -> None:
        super().__init__()
        self.standardise = Standardise(signature)
        self.embed = Embeddings(signature, settings.embedding)
        widths = (self.standardise.width + self.embed.width, *settings.hidden)
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(settings.dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], len(signature.classes)))

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        inputs = torch.cat([self.standardise(numbers), self.embed(categories)], dim=1)
        return self.layers(inputs)


def loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over rows; `logits` is float32 [N, classes], `target` the class's index int64 [N]."""
    return nn.functional.cross_entropy(logits, target)


def score(logits: Tensor) -> Tensor:
    """What the exported model gives: the probability of each class [N, classes]."""
    return logits.softmax(dim=1)
