"""The schedule and the running scores, against definitions and torchmetrics."""

import pytest
import torch
import torchmetrics.functional.classification as reference
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from ml.training.module import EpochScores, triangular


@given(steps=st.integers(1, 500), warmup=st.sampled_from([0.0, 0.1, 0.5]))
def test_schedule_stays_within_zero_and_one_and_ends_at_zero(steps: int, warmup: float) -> None:
    factors = [triangular(step, steps, warmup) for step in range(steps + 2)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[-1] == 0.0


def test_schedule_without_warmup_falls_from_one_and_with_it_rises_first() -> None:
    assert [triangular(step, 4, 0.0) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert [triangular(step, 4, 0.5) for step in range(5)] == [0.0, 0.5, 1.0, 0.5, 0.0]


def test_scores_of_an_epoch_are_those_of_all_its_images_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(100, 4, generator=generator)
    labels = torch.randint(0, 4, (100,), generator=generator)
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
