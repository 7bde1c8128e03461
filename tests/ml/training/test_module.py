"""The schedule and the running scores, against definitions and torchmetrics."""

import pytest
import torch
import torchmetrics.functional.classification as reference
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer

from ml.training.module import EpochScores, ImageClassifier, class_weights, schedule_factor


@given(
    steps=st.integers(1, 500),
    warmup=st.sampled_from([0.0, 0.1, 0.5]),
    schedule=st.sampled_from(["linear", "cosine"]),
)
def test_schedule_stays_within_zero_and_one_and_ends_at_zero(
    steps: int, warmup: float, schedule: str
) -> None:
    factors = [schedule_factor(step, steps, warmup, schedule) for step in range(steps + 2)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[-1] == 0.0


def test_schedule_without_warmup_falls_from_one_and_with_it_rises_first() -> None:
    assert [schedule_factor(step, 4, 0.0) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert [schedule_factor(step, 4, 0.5) for step in range(5)] == [0.0, 0.5, 1.0, 0.5, 0.0]


def _no_optimizer(network: nn.Module) -> Optimizer:
    raise AssertionError("nothing is trained here")


def test_cosine_falls_by_half_a_wave_and_constant_stays() -> None:
    cosine = [schedule_factor(step, 4, 0.0, "cosine") for step in range(5)]
    assert cosine == pytest.approx([1.0, 0.8535534, 0.5, 0.1464466, 0.0])
    assert [schedule_factor(step, 4, 0.5, "constant") for step in range(5)] == [0, 0.5, 1, 1, 1]


def test_balanced_weights_weigh_each_class_as_a_whole_alike() -> None:
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    balanced = class_weights("balanced", labels, 3)
    assert balanced is not None
    assert balanced.tolist() == pytest.approx([6 / 9, 2, 1])
    assert balanced[labels].mean().item() == pytest.approx(1)
    assert class_weights(None, labels, 3) is None
    given_weights = class_weights([1, 2, 0.5], labels, 3)
    assert given_weights is not None
    assert given_weights.tolist() == [1, 2, 0.5]


def test_weights_count_in_training_and_not_in_validation() -> None:
    logits, labels, weights = torch.randn(6, 3), torch.arange(6) % 3, torch.tensor([1.0, 5.0, 0.1])
    module = ImageClassifier(
        nn.Identity(), classes=3, make_optimizer=_no_optimizer, class_weights=weights
    )
    loss = module.training_step((logits, labels), 0)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels, weights))
    module.validation_step((logits, labels), 0)
    plain = F.cross_entropy(logits, labels).item()
    assert module.val_scores.take()["loss"] == pytest.approx(plain)


@pytest.mark.parametrize("seen", [4, 2])  # classes; the others are neither label nor answer
def test_scores_of_an_epoch_are_those_of_all_its_images_at_once(seen: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(100, 4, generator=generator)
    logits[:, seen:] = -9
    labels = torch.randint(0, seen, (100,), generator=generator)
    scores = EpochScores(4)
    for part in (slice(0, 30), slice(30, 100)):
        scores.add(logits[part], labels[part], F.cross_entropy(logits[part], labels[part]))
    taken = scores.take()
    f1 = reference.multiclass_f1_score(logits, labels, 4, average="macro")
    assert taken["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert taken["accuracy"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    assert taken["macro_f1"] == pytest.approx(f1.item(), rel=1e-5)


def test_scores_are_forgotten_when_taken() -> None:
    scores = EpochScores(2)
    for wanted in (1.0, 0.0):
        label = torch.tensor([1 if wanted else 0])
        scores.add(torch.tensor([[0.0, 1.0]]), label, torch.tensor(0.5))
        assert scores.take()["accuracy"] == wanted


def test_mixed_labels_reach_the_loss_as_shares_and_the_scores_as_their_largest() -> None:
    logits, shares = torch.randn(6, 3), torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.2, 0.8]] * 3)
    module = ImageClassifier(
        nn.Identity(), classes=3, make_optimizer=_no_optimizer, label_smoothing=0.1
    )
    loss = module.training_step((logits, shares), 0)
    smoothed = 0.9 * shares + 0.1 / 3
    torch.testing.assert_close(loss, -(smoothed * logits.log_softmax(1)).sum(1).mean())
    scores = module.train_scores.take()
    hits = (logits.argmax(1) == torch.tensor([0, 2] * 3)).float().mean()
    assert scores["accuracy"] == pytest.approx(hits.item())
    assert scores["loss"] == pytest.approx(loss.item())
