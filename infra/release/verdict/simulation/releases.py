"""Many releases of one scenario at once: counts drawn at random, windows as the judge sees them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.release.verdict.betting import Floats
from infra.release.verdict.simulation.model import CONFIDENCE_EDGES, Golden
from infra.release.verdict.simulation.scenarios import (
    EDGES,
    PARTS,
    Scenario,
    bucket_shares,
    error_rates,
)
from infra.release.verdict.tallies import ArmTallies, Tallies


@dataclass(frozen=True)
class Size:
    """How much there is to see in a window."""

    requests: int = 4000  # of both arms
    golden: int = 800


def draw(
    scenario: Scenario, golden: Golden, releases: int, size: Size, random: np.random.Generator
) -> Tallies:
    """Tallies with a leading axis of releases."""
    canary = np.round(PARTS * size.requests).astype(int)
    replay = _replay(scenario, golden, releases, size.golden, random)
    stable = _arm(scenario, golden, size.requests - canary, releases, random, canary=False)
    return Tallies(
        EDGES, stable, _arm(scenario, golden, canary, releases, random, canary=True), replay
    )


def _arm(
    scenario: Scenario,
    golden: Golden,
    requests: NDArray[np.int64],
    releases: int,
    random: np.random.Generator,
    *,
    canary: bool,
) -> ArmTallies:
    windows = range(len(requests))
    rates = np.array([error_rates(scenario, window)[int(canary)] for window in windows])
    errors = random.binomial(requests, rates, (releases, len(requests)))
    answered = requests - errors
    shares = [bucket_shares(scenario, window, canary=canary) for window in windows]
    latency = [random.multinomial(answered[:, w], shares[w]) for w in windows]
    kinds = 1 + max(int(golden.labels.max()), int(golden.predictions.max()))
    named = (golden.predictions + int(canary and scenario.mislabelled)) % kinds
    classes = np.bincount(named, minlength=kinds) / len(named)
    bins = np.searchsorted(CONFIDENCE_EDGES, golden.confidence)
    confidence = np.bincount(bins, minlength=len(CONFIDENCE_EDGES) + 1) / len(bins)
    return ArmTallies(
        # One row for all releases: they have equal traffic, which saves the judge most of its work.
        requests=requests[None].astype(np.float64),
        errors=errors.astype(np.float64),
        latency=np.stack(latency, 1).astype(np.float64),
        classes=random.multinomial(answered, classes).astype(np.float64),
        confidence=random.multinomial(answered, confidence).astype(np.float64),
    )


def _replay(
    scenario: Scenario, golden: Golden, releases: int, each: int, random: np.random.Generator
) -> Floats:
    """(R, W, 5) Every release sends the golden images in an order of its own through both versions.

    The canary's answers are stable's, but for images drawn at random: right ones that turn wrong
    and wrong ones that turn right, so many that `lost` is lost on balance.
    """
    images, windows = len(golden.labels), len(PARTS)
    right = golden.predictions == golden.labels
    accuracy = right.mean()
    spoiled = min(1.0, (scenario.churn + scenario.lost) / accuracy)
    mended = min(1.0, scenario.churn / max(1 - accuracy, 1e-9))
    order = np.argsort(random.random((releases, images), dtype=np.float32), 1)
    stable = right[order]
    luck = random.random((releases, images), dtype=np.float32)
    if scenario.mislabelled:
        canary = (((golden.predictions + 1) % 10) == golden.labels)[order]
        apart = np.ones_like(stable)
    else:
        canary = np.where(stable, luck >= spoiled, luck < mended)
        apart = np.zeros_like(stable)
    kinds = [
        stable & canary,
        stable & ~canary,
        ~stable & canary,
        ~stable & ~canary & ~apart,
        ~stable & ~canary & apart,
    ]
    ends = np.minimum(np.arange(1, windows + 1) * each, images)
    totals = [np.cumsum(kind, 1, dtype=np.int32)[:, ends - 1] for kind in kinds]
    return np.diff(np.stack(totals, -1), axis=1, prepend=0).astype(np.float64)
