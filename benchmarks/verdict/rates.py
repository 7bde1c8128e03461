"""Outcomes of simulated releases: how many are rolled back, how soon, and by which test."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

from benchmarks.verdict.releases import Golden, Plan, Scenario, draw
from common.betting import Floats
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
    promoted: int  # safe in every check after a window that ends the last step
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
    plan: Plan,
    a_minute: float,
    seed: int,
    progress: Callable[[int], None] = lambda count: None,
) -> Outcome:
    """Draws releases, judges each after every window until it is rolled back or promoted."""
    random = np.random.default_rng([seed, *scenario.name.encode()])
    ends = []
    for start in range(0, releases, CHUNK):
        count = min(CHUNK, releases - start)
        arrays = draw(scenario, golden, count, plan, a_minute, random)
        ends.append(_ends(judge_all(arrays, policy), arrays, policy, plan))
        progress(count)
    back, fine, reasons, requests, images = (
        np.concatenate(of, -1) for of in zip(*ends, strict=True)
    )
    gone = back < fine
    return Outcome(
        scenario=scenario.name,
        harmless=scenario.harmless,
        releases=releases,
        rolled_back=int(gone.sum()),
        promoted=int((fine < back).sum()),
        by_check=dict(zip(CHECKS, (reasons & gone).sum(1).tolist(), strict=True)),
        by_window=np.bincount(back[gone], minlength=len(plan.shares)).tolist(),
        candidate_requests=float(np.median(requests[gone])) if gone.any() else inf,
        golden_images=float(np.median(images[gone])) if gone.any() else inf,
    )


def judge_all(arrays: EvidenceArrays, policy: Policy) -> Judged:
    """The judge's own tests, release by release side by side."""
    found = [
        measure(arrays, policy)
        for measure in (
            measures.errors,
            measures.refusals,
            measures.latency,
            measures.accuracy,
            measures.disagreement,
            measures.memory,
            measures.cold_start,
        )
    ]
    found.append(measures.log_content(arrays))
    harmful, safe = [one.harmful for one in found], [one.safe for one in found]
    for truths in _predictions(arrays, policy):
        harmful.append(truths[0])
        safe.append(truths[1])
    labels = measures.labels(arrays, policy)
    harmful.append(labels.harmful)
    safe.append(labels.safe)
    return Judged(np.stack(harmful), np.stack(safe))


def _predictions(arrays: EvidenceArrays, policy: Policy) -> NDArray[np.bool_]:
    """(2, 2, R, W) Class mix and confidence: whether harmful, whether safe."""
    classes, confidence = signal_counts(arrays, "classes"), signal_counts(arrays, "confidence")
    truths = np.zeros((2, 2, *classes.size.shape), np.bool_)
    quiet = np.broadcast_to(measures.is_quiet(arrays, policy), classes.size.shape)
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
            else:
                truths[(kind, 1, *place)] = quiet[place]
    return truths


_Ends = tuple[NDArray[np.int64], NDArray[np.int64], Truths, Floats, Floats]


def _ends(judged: Judged, arrays: EvidenceArrays, policy: Policy, plan: Plan) -> _Ends:
    """When each release is rolled back and when it is promoted, the number of windows for never;
    then the checks (C, R), candidate requests and golden images of the roll back."""
    acting = [place for place, name in enumerate(CHECKS) if name not in policy.informing]
    required = [CHECKS.index(name) for name in policy.required]
    fine = np.all(judged.safe[required], axis=0)
    fine[:, : plan.promoted_from] = False
    back, windows = _first(np.any(judged.harmful[acting], axis=0)), fine.shape[1]
    at = np.minimum(back, windows - 1)
    rows = np.arange(len(back))
    requests = np.broadcast_to(np.cumsum(arrays.candidate.requests, -1), fine.shape)
    images = np.cumsum(arrays.golden.sum(-1), -1)
    return back, _first(fine), judged.harmful[:, rows, at], requests[rows, at], images[rows, at]


def _first(truths: Truths) -> NDArray[np.int64]:
    """(R,) First window of each release in which it holds; the number of windows if in none."""
    first: NDArray[np.int64] = np.where(truths.any(1), truths.argmax(1), truths.shape[1])
    return first
