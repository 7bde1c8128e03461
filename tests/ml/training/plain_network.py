"""A network that treats every image alone, so that a batch can be shared without a trace."""

from typing import Any

import torch
from torch import Tensor, nn


class PlainNetwork(nn.Module):
    """A linear classifier of 4×4 averages; takes the arguments of a ResNet and needs none."""

    def __init__(self, classes: int = 10, **_: Any) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.head = nn.Linear(48, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, K)."""
        logits: Tensor = self.head(self.pool(images).flatten(1))
        return logits

    @torch.no_grad()
    def scale_logits(self, factor: float) -> None:
        """Multiplies all logits by a factor."""
        self.head.weight.mul_(factor)
        self.head.bias.mul_(factor)


class ForgetfulNetwork(PlainNetwork):
    """The same with dropout, which draws from PyTorch's own random state."""

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, K)."""
        kept = nn.functional.dropout(self.pool(images).flatten(1), 0.5, self.training)
        logits: Tensor = self.head(kept)
        return logits
