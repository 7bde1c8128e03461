"""Outcomes of simulated releases: how many are rolled back, when, and by which test."""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.verdict.releases import Golden, Plan, Scenario, draw
from common.betting import Floats
from common.intervals import Interval, wilson
from common.model.drift import MERGED_BELOW
from infra.release.verdict import measures
from infra.release.verdict.engine import (
    PredictionShift,
    SignalCounts,
    prediction_shift,
    signal_counts,
)
from infra.release.verdict.measures import EvidenceArrays, Measure
from infra.release.verdict.policy import CHECKS, CheckName, Policy

CHUNK = 250  # releases drawn and judged at once
Truths = NDArray[np.bool_]


@dataclass(frozen=True)
class Outcome:
    """The releases of one scenario, judged after every window."""

    scenario: str
    harmless: bool
    releases: int
    rolled_back: int
    promoted: int  # safe in every check after the last step's window
    by_check: dict[str, int]  # checks that were harmful at the rollback; may be several
    by_window: list[int]  # releases rolled back after each window
    candidate_requests: float  # median until the rollback
    golden_images: float

    @property
    def rate(self) -> float:
        """Share of releases that were rolled back."""
        return self.rolled_back / self.releases

    @property
    def interval(self) -> Interval:
        """95 % interval of the rate (Wilson 1927)."""
        return wilson(self.rolled_back, self.releases)


@dataclass(frozen=True)
class Judged:
    """Every check in the order of CHECKS, after each window of each release."""

    harmful: Truths  # (C, R, W)
    safe: Truths  # (C, R, W - since)


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
    """Simulates releases, judging each after every window until it is rolled back or promoted."""
    random = np.random.default_rng([seed, *scenario.name.encode()])
    ends = []
    for start in range(0, releases, CHUNK):
        count = min(CHUNK, releases - start)
        arrays = draw(scenario, golden, count, plan, a_minute, random)
        ends.append(ends_of(arrays, policy, plan, scenario.harmless))
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


def judge_all(arrays: EvidenceArrays, policy: Policy, since: int = 0) -> Judged:
    """The verdict's own tests, vectorised over releases.

    Args:
        since: the first window in which a release may be called safe.
    """
    class_mix, confidence = _predictions(arrays, policy)
    found: dict[CheckName, tuple[Truths, Truths]] = {
        "latency": _latency(arrays, policy, since),
        "class mix": (class_mix[0], class_mix[1][:, since:]),
        "confidence": (confidence[0], confidence[1][:, since:]),
    }
    measured: dict[CheckName, Measure] = {
        "errors": measures.errors(arrays, policy, since),
        "refusals": measures.refusals(arrays, policy, since),
        "accuracy": measures.accuracy(arrays, policy, since),
        "disagreement": measures.disagreement(arrays, policy, since),
        "memory": measures.memory(arrays, policy, since),
        "cold start": measures.cold_start(arrays, policy, since),
        "log content": measures.log_content(arrays, since),
        "labels": measures.labels(arrays, policy, since),
    }
    found |= {name: (measure.harmful, measure.safe) for name, measure in measured.items()}
    harmful, safe = zip(*(found[name] for name in CHECKS), strict=True)
    return Judged(np.stack(harmful), np.stack(safe))


def _latency(arrays: EvidenceArrays, policy: Policy, since: int) -> tuple[Truths, Truths]:
    """Harmful, and safe.

    The odds take most of the time, and matter only up to the last window in which a release is
    slower than tolerated.
    """
    size = measures.latency_size(arrays)
    slow = size >= policy.tolerated_latency_ratio
    harmful, windows = np.zeros_like(slow), size.shape[1]
    last = np.where(slow.any(1), windows - np.argmax(slow[:, ::-1], 1), 0)
    last = np.minimum(-(-last // 5) * 5, windows)  # a few groups of releases, each large
    for windows in np.unique(last[last > 0]):
        rows = np.flatnonzero(last == windows)
        odds = measures.latency_odds(part(arrays, rows, windows))
        harmful[rows, :windows] = slow[rows, :windows] & (
            odds >= np.log(policy.odds_of_harm("latency"))
        )
    kept = measures.latency_safety(arrays, policy, since) >= np.log(policy.odds_of_safety)
    return harmful, kept & ~harmful[:, since:]


def _predictions(arrays: EvidenceArrays, policy: Policy) -> NDArray[np.bool_]:
    """(2, 2, R, W) Class mix and confidence: whether harmful, whether safe."""
    classes, confidence = signal_counts(arrays, "classes"), signal_counts(arrays, "confidence")
    truths = np.zeros((2, 2, *classes.size.shape), np.bool_)
    quiet = np.broadcast_to(measures.is_quiet(arrays, policy), classes.size.shape)
    alike = _alike(classes, confidence, policy)
    truths[:, 1, alike] = True
    few = np.minimum(classes.live.sum(-1), classes.size) < policy.fewest_images
    truths[:, 1, few] = quiet[few]
    for release, window in np.argwhere(~alike & ~few):
        place = (release, window)
        found: PredictionShift = prediction_shift(
            classes.at(place), confidence.at(place), policy, int(window) + 1
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


def _alike(classes: SignalCounts, confidence: SignalCounts, policy: Policy) -> Truths:
    """(R, W) Where both statistics are clearly below the limits of a shift, computed at once.

    False where bins are too small to stand alone or predictions too few: the engine decides there.
    """
    images = np.minimum.reduce(
        [classes.live.sum(-1), classes.size, confidence.live.sum(-1), confidence.size]
    )
    alone = (classes.shares * classes.live.sum(-1, keepdims=True) > 1.01 * MERGED_BELOW).all(-1)
    ones = classes.live + 1, classes.shares * np.round(classes.size)[..., None] + 1
    p, q = (counts / counts.sum(-1, keepdims=True) for counts in ones)
    psi = ((p - q) * np.log(p / q)).sum(-1)
    seen, expected = np.cumsum(confidence.live, -1), np.cumsum(confidence.shares, -1)
    total = np.maximum(seen[..., -1:], 1)
    ks = np.abs(seen / total - expected).max(-1)
    small = (psi < 0.99 * policy.harmful_class_mix_psi) & (ks < 0.99 * policy.harmful_confidence_ks)
    alike: Truths = small & alone & (images >= policy.fewest_images)
    return alike


_Ends = tuple[NDArray[np.int64], NDArray[np.int64], Truths, Floats, Floats]


def ends_of(arrays: EvidenceArrays, policy: Policy, plan: Plan, harmless: bool) -> _Ends:
    """The windows in which each release is rolled back and promoted, or the number of windows for
    never; then the checks (C, R), candidate requests and golden images at the rollback.

    A test's result after a window depends on nothing later, so releases are judged on their first
    windows, and only those that have not ended on more of them.

    Args:
        harmless: the expected outcome; only the running time depends on it.
    """
    windows, releases = len(plan.shares), arrays.golden.shape[0]
    early = () if harmless else (2, plan.promoted_from // 3)
    looks = sorted({*early, plan.promoted_from + 1, windows} - {0})
    back, fine = np.full((2, releases), windows)
    reasons = np.zeros((len(CHECKS), releases), np.bool_)
    open_ = np.arange(releases)
    for look in looks:
        judged = judge_all(part(arrays, open_, look), policy, plan.promoted_from)
        of = _ends(judged, policy, plan)
        ended = np.minimum(*of) < look
        rows = open_[ended]
        back[rows], fine[rows] = (np.where(end < look, end, windows)[ended] for end in of)
        at = np.minimum(of[0], look - 1)
        reasons[:, rows] = judged.harmful[:, np.arange(len(at)), at][:, ended]
        open_ = open_[~ended]
        if not len(open_):
            break
    at, rows = np.minimum(back, windows - 1), np.arange(releases)
    requests = np.broadcast_to(np.cumsum(arrays.candidate.requests, -1), (releases, windows))
    images = np.cumsum(arrays.golden.sum(-1), -1)
    return back, fine, reasons, requests[rows, at], images[rows, at]


def part(arrays: Any, rows: NDArray[np.int64], windows: int) -> Any:
    """A subset of the releases, and their first windows; an axis of length one stands for all."""
    if is_dataclass(arrays) and not isinstance(arrays, type):
        kept = {one.name: getattr(arrays, one.name) for one in fields(arrays)}
        return replace(
            arrays,
            **{k: v if k == "edges" else part(v, rows, windows) for k, v in kept.items()},
        )
    if isinstance(arrays, tuple):
        return tuple(part(one, rows, windows) for one in arrays)
    if arrays is None:
        return None
    return (arrays if len(arrays) == 1 else arrays[rows])[:, :windows]


def _ends(
    judged: Judged, policy: Policy, plan: Plan
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(R,) First window of each release that rolls back, and that promotes."""
    acting = [place for place, name in enumerate(CHECKS) if name not in policy.informing]
    required = [CHECKS.index(name) for name in policy.required]
    fine = np.zeros(judged.harmful.shape[1:], np.bool_)
    fine[:, plan.promoted_from :] = np.all(judged.safe[required], axis=0)
    return _first(np.any(judged.harmful[acting], axis=0)), _first(fine)


def _first(truths: Truths) -> NDArray[np.int64]:
    """(R,) First window of each release in which it holds; the number of windows if none."""
    first: NDArray[np.int64] = np.where(truths.any(1), truths.argmax(1), truths.shape[1])
    return first
