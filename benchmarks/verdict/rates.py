"""Outcomes of simulated releases: how many are rolled back, how soon, and by which test."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

from benchmarks.verdict.releases import PARTS, Golden, Scenario, Size, draw
from infra.release.verdict import measures
from infra.release.verdict.engine import PredictionShift, prediction_shift, signal_counts
from infra.release.verdict.measures import EvidenceArrays
from infra.release.verdict.policy import CHECKS, Policy

CHUNK = 250  # releases at once: what they need stays in a few hundred megabytes
Truths = NDArray[np.bool_]


@dataclass(frozen=True)
class Outcome:
    """The releases of one scenario, each judged after every window until the last."""

    scenario: str
    harmless: bool
    releases: int
    rolled_back: int
    promoted: int  # safe in every check after some window, and never rolled back up to then
    by_check: dict[str, int]  # which checks were harmful at the roll back; may be several
    by_window: list[int]  # releases rolled back after each window
    candidate_requests: float  # median until the roll back
    golden_images: float

    @property
    def rate(self) -> float:
        """Share of releases that were rolled back."""
        return self.rolled_back / self.releases

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the rate (Wilson 1927)."""
        n, p, z = self.releases, self.rate, 1.96
        middle, width = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        low, high = ((middle + side * width) / (1 + z * z / n) for side in (-1, 1))
        return max(0.0, low), min(1.0, high)


@dataclass(frozen=True)
class Judged:
    """Releases by windows: (R, W) for every check, in the order of CHECKS."""

    harmful: Truths  # (C, R, W)
    safe: Truths


def simulate(
    scenario: Scenario,
    golden: Golden,
    releases: int,
    policy: Policy,
    size: Size,
    seed: int,
    progress: Callable[[int], None] = lambda count: None,
) -> Outcome:
    """Draws releases, judges each after every window; rolled back is rolled back."""
    random = np.random.default_rng([seed, *scenario.name.encode()])
    harmful, safe = [], []
    for start in range(0, releases, CHUNK):
        count = min(CHUNK, releases - start)
        judged = judge_all(draw(scenario, golden, count, size, random), policy)
        harmful.append(judged.harmful)
        safe.append(judged.safe)
        progress(count)
    return _outcome(
        scenario,
        np.concatenate(harmful, 1),
        np.concatenate(safe, 1),
        policy,
        size,
        len(golden.labels),
    )


def judge_all(arrays: EvidenceArrays, policy: Policy) -> Judged:
    """The judge's own tests, release by release side by side."""
    found = [
        measure(arrays, policy)
        for measure in (
            measures.errors,
            measures.latency,
            measures.accuracy,
            measures.disagreement,
        )
    ]
    harmful, safe = [one.harmful for one in found], [one.safe for one in found]
    for truths in _predictions(arrays, policy):
        harmful.append(truths[0])
        safe.append(truths[1])
    return Judged(np.stack(harmful), np.stack(safe))


def _predictions(arrays: EvidenceArrays, policy: Policy) -> NDArray[np.bool_]:
    """(2, 2, R, W) Class mix and confidence: whether harmful, whether safe."""
    classes, confidence = signal_counts(arrays, "classes"), signal_counts(arrays, "confidence")
    truths = np.zeros((2, 2, *classes.size.shape), np.bool_)
    for release, window in np.ndindex(classes.size.shape):
        place = (release, window)
        found: PredictionShift = prediction_shift(
            classes.at(place), confidence.at(place), policy, window + 1
        )
        for kind, (statistic, limit) in enumerate(
            [
                (found.class_mix, policy.harmful_class_mix_psi),
                (found.confidence, policy.harmful_confidence_ks),
            ]
        ):
            if statistic is not None:
                truths[(kind, 0, *place)] = statistic.drifted
                truths[(kind, 1, *place)] = statistic.value <= limit and not statistic.drifted
    return truths


def _outcome(
    scenario: Scenario, harmful: Truths, safe: Truths, policy: Policy, size: Size, golden: int
) -> Outcome:
    windows = len(PARTS)
    required = [CHECKS.index(name) for name in policy.required]
    back = _first(np.any(harmful, axis=0))
    fine = _first(np.all(safe[required], axis=0))
    gone = back < windows
    at = np.minimum(back, windows - 1)
    reasons = harmful[:, np.arange(len(at)), at] & gone
    requests = np.cumsum(np.round(PARTS * size.requests))
    images = np.minimum(np.arange(1, windows + 1) * size.golden, golden)
    return Outcome(
        scenario=scenario.name,
        harmless=scenario.harmless,
        releases=len(back),
        rolled_back=int(gone.sum()),
        promoted=int((fine < back).sum()),
        by_check=dict(zip(CHECKS, reasons.sum(1).tolist(), strict=True)),
        by_window=np.bincount(back[gone], minlength=windows).tolist(),
        candidate_requests=float(np.median(requests[back[gone]])) if gone.any() else inf,
        golden_images=float(np.median(images[back[gone]])) if gone.any() else inf,
    )


def _first(truths: Truths) -> NDArray[np.int64]:
    """(R,) First window of each release in which it holds; the number of windows if in none."""
    first: NDArray[np.int64] = np.where(truths.any(1), truths.argmax(1), truths.shape[1])
    return first
