"""Temperature scaling against a grid search, and its promises."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ml.artifact.calibration import best_temperature, calibrate


def _logits(scale: float) -> tuple[Tensor, Tensor]:
    """(N, 4) logits whose softmax, divided by ``scale``, is what the labels were drawn from."""
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(4000, 4, generator=generator) * 2
    labels = torch.multinomial(honest.softmax(1), 1, generator=generator).squeeze(1)
    return honest * scale, labels


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_the_scale_of_dishonest_logits_is_found(scale: float) -> None:
    assert best_temperature(*_logits(scale)) == pytest.approx(scale, rel=0.05)


def test_no_temperature_on_a_grid_does_better() -> None:
    logits, labels = _logits(3.0)
    found = F.cross_entropy(logits / best_temperature(logits, labels), labels)
    grid = [F.cross_entropy(logits / (t / 10), labels) for t in range(1, 100)]
    assert found <= min(grid) + 1e-6


class _Scaled(nn.Module):
    """Answers with its input, scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0

    def forward(self, images: Tensor) -> Tensor:
        return images * self.factor

    def scale_logits(self, factor: float) -> None:
        self.factor *= factor


def test_a_network_that_can_be_scaled_is_made_honest_over_all_batches() -> None:
    logits, labels = _logits(3.0)
    network = _Scaled()
    batches = list(zip(logits.split(1500), labels.split(1500), strict=True))
    assert calibrate(network, batches) == pytest.approx(3.0, rel=0.05)
    assert best_temperature(network(logits), labels) == pytest.approx(1.0, rel=1e-3)


def test_a_network_that_cannot_be_scaled_is_left_alone() -> None:
    assert calibrate(nn.Identity(), []) == 1.0
