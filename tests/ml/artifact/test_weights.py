"""Temperature scaling against a grid search, and its promises."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ml.artifact.weights import best_temperature, calibrate


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
    assert found <= min(grid) + 1e-4  # 4,000 images outweigh the prior


def _equal_gaps(images: int, wrong: int, gap: float) -> tuple[Tensor, Tensor]:
    """Two logits ``gap`` apart for each image, of which some point the wrong way."""
    labels = torch.arange(images) % 2
    logits = F.one_hot(labels, 2) * gap
    logits[:wrong] = logits[:wrong].flip(1)
    return logits, labels


@pytest.mark.parametrize("gap", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize(("images", "wrong"), [(99, 0), (397, 0), (2500, 0), (99, 1), (500, 20)])
def test_half_a_mistake_is_expected_beside_those_that_were_made(
    images: int, wrong: int, gap: float
) -> None:
    temperature = best_temperature(*_equal_gaps(images, wrong, gap))
    expected = (wrong + 0.5) / (images + 1)  # Jeffreys' estimate of a share
    assert torch.sigmoid(torch.tensor(-gap / temperature)).item() == pytest.approx(
        expected, rel=1e-4
    )


def test_without_mistakes_no_answer_becomes_certain() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 10 * torch.rand(397, 10, generator=generator)
    labels = logits.argmax(1)
    answers = (logits / best_temperature(logits, labels)).softmax(1)
    assert 0.2 < float((1 - answers.amax(1)).sum()) < 1.0  # mistakes that are expected of 397


def test_a_network_worse_than_chance_is_made_to_say_so() -> None:
    logits, labels = _equal_gaps(100, 90, 5.0)
    answers = (logits / best_temperature(logits, labels)).softmax(1)
    assert answers.amax(1).tolist() == pytest.approx([0.5] * 100, abs=1e-3)
    assert torch.equal(answers.argmax(1), logits.argmax(1))


def test_logits_that_are_all_equal_have_no_temperature() -> None:
    assert best_temperature(torch.ones(5, 3), torch.arange(5) % 3) == 1.0


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
