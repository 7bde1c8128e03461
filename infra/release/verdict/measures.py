"""The sequential tests of the verdict: which harm is proven, and which is ruled out.

Array in, array out: the judge asks for one release, the simulation for thousands, of the same code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec.structs import astuple
from numpy.typing import NDArray

from infra.release.verdict import betting
from infra.release.verdict.betting import Floats
from infra.release.verdict.evidence import Arm, Evidence
from infra.release.verdict.policy import Policy

Truths = NDArray[np.bool_]
QUANTILES = (0.5, 0.99)
SHARE = (0.0, 1.0)  # values of what happens or not
LOSS = (-1.0, 0.0, 1.0)  # of a golden image: gained, no difference, lost


# --- Evidence as arrays: one release for the judge, thousands side by side for the simulation ---


@dataclass(frozen=True)
class ArmArrays:
    """Counts of one arm; W windows, leading axes are releases."""

    requests: Floats  # (..., W)
    errors: Floats  # (..., W)
    latency: Floats  # (..., W, E + 1)
    classes: Floats  # (..., W, K)
    confidence: Floats  # (..., W, C)


@dataclass(frozen=True)
class EvidenceArrays:
    """Counts of both arms at the same times."""

    edges: Floats  # (E,), seconds
    stable: ArmArrays
    candidate: ArmArrays
    golden: Floats  # (..., W, 5), in the order of `Replay`


def evidence_arrays(evidence: Evidence) -> EvidenceArrays:
    """The windows of one release. One without any has an empty window, so that there is a last."""
    windows = evidence.windows
    golden = [astuple(window.golden) for window in windows] or [(0,) * 5]
    buckets = len(evidence.latency_edges_s) + 1
    return EvidenceArrays(
        edges=np.array(evidence.latency_edges_s, np.float64),
        stable=_arm([window.stable for window in windows] or [Arm()], buckets),
        candidate=_arm([window.candidate for window in windows] or [Arm()], buckets),
        golden=np.array(golden, np.float64),
    )


def if_stable(arrays: EvidenceArrays, what: str) -> tuple[Floats, Floats]:
    """What the candidate did so far, and what stable would have done in its place.

    Stable's shares of each window are weighted by the candidate's part of it: the candidate has
    most of its traffic late, when things may have been different for both.

    Args:
        what: `latency`, `classes` or `confidence`.

    Returns:
        Two (..., W, B), summed over the windows so far in which both answered.
    """
    mine, theirs = getattr(arrays.candidate, what), getattr(arrays.stable, what)
    of_mine, of_theirs = mine.sum(-1, keepdims=True), theirs.sum(-1, keepdims=True)
    expected = theirs * of_mine / np.maximum(of_theirs, 1)
    return np.cumsum(np.where(of_theirs > 0, mine, 0), -2), np.cumsum(expected, -2)


def _arm(arms: Sequence[Arm], buckets: int) -> ArmArrays:
    return ArmArrays(
        requests=np.array([arm.requests for arm in arms], np.float64),
        errors=np.array([arm.errors for arm in arms], np.float64),
        latency=_rows([arm.latency for arm in arms], buckets),
        classes=_rows([arm.classes for arm in arms], 0),
        confidence=_rows([arm.confidence for arm in arms], 0),
    )


def _rows(rows: Sequence[tuple[int, ...]], least: int) -> Any:
    """(W, B); a window that counted nothing is a row of zeros."""
    width = max(least, *(len(row) for row in rows))
    return np.array([row or (0,) * width for row in rows], np.float64).reshape(len(rows), width)


# --- The tests ---


@dataclass(frozen=True)
class Measure:
    """A test after every window, all (..., W)."""

    harmful: Truths
    safe: Truths
    odds_of_harm: Floats  # logarithms
    odds_of_safety: Floats
    size: Floats  # the estimated difference that the limits are about


def errors(arrays: EvidenceArrays, policy: Policy) -> Measure:
    """Share of requests that failed; the size is the excess over stable in the same windows."""
    stable, candidate = arrays.stable, arrays.candidate
    odds = betting.two_arm_log_odds(
        stable.errors, stable.requests, candidate.errors, candidate.requests
    )
    both = np.where(stable.requests > 0, candidate.requests, 0)
    share = stable.errors / np.maximum(stable.requests, 1)
    excess = np.cumsum(np.where(both > 0, candidate.errors, 0) - share * both, -1)
    size = excess / np.maximum(np.cumsum(both, -1), 1)
    safety = betting.log_odds(
        happened(candidate.errors, candidate.requests), SHARE, error_limit(arrays, policy), "below"
    )
    harmful = (odds >= np.log(policy.odds_of_harm("errors"))) & (
        size >= policy.tolerated_error_excess
    )
    safe = safety >= np.log(2 * policy.odds_of_safety)
    return Measure(harmful, safe & ~harmful, odds, safety, size)


def error_limit(arrays: EvidenceArrays, policy: Policy) -> Floats:
    """(..., W) The error rate that a candidate must be below: the least that stable's may be, and
    the harmful excess. Half of the rate of missed harm is spent on stable's."""
    seen = happened(arrays.stable.errors, arrays.stable.requests)
    least = betting.bound(seen, SHARE, 2 * policy.odds_of_safety, "below")
    return np.minimum(least + policy.harmful_error_excess, 1)


def latency(arrays: EvidenceArrays, policy: Policy) -> Measure:
    """Time to answer; the size is the worst ratio of a quantile to stable's in the same windows.

    Harm is sought at every edge of the histogram at once, as the share of slower requests: a change
    of the middle shows at one edge, of the tail at another. Safety is that fewer than 1 % of the
    candidate's requests are slower than the harmful multiple of stable's p99, and so for the p50.
    """
    of = [arm.latency.sum(-1)[..., None, :] for arm in (arrays.stable, arrays.candidate)]
    slower = [_slower(arm.latency) for arm in (arrays.stable, arrays.candidate)]
    at_edges = betting.two_arm_log_odds(slower[0], of[0], slower[1], of[1])
    odds = betting.log_mean_exp(np.moveaxis(at_edges, -2, -1))
    seen, expected = if_stable(arrays, "latency")
    ratios = [
        quantile(seen, arrays.edges, q) / np.maximum(quantile(expected, arrays.edges, q), 1e-9)
        for q in QUANTILES
    ]
    size = np.maximum(*ratios)
    safeties = [
        betting.log_odds(latency_counts(arrays, policy, q), SHARE, 1 - q, "below")
        for q in QUANTILES
    ]
    safety = np.minimum(*safeties)
    harmful = (odds >= np.log(policy.odds_of_harm("latency"))) & (
        size >= policy.tolerated_latency_ratio
    )
    safe = safety >= np.log(policy.odds_of_safety)
    return Measure(harmful, safe & ~harmful, odds, safety, size)


def latency_limit(arrays: EvidenceArrays, policy: Policy, q: float) -> Any:
    """(..., W) Index of the edge that the candidate's quantile must be below; E if there is none.

    The edge nearest to the harmful multiple of stable's quantile, by ratio, but none inside or
    below stable's own bucket: a histogram cannot tell more than its buckets.
    """
    _, expected = if_stable(arrays, "latency")
    most = policy.harmful_latency_ratio * quantile(expected, arrays.edges, q)
    gaps = np.abs(np.log(arrays.edges) - np.log(np.maximum(most, 1e-9))[..., None])
    limit = np.maximum(_bucket(expected, q), np.argmin(gaps, -1))
    return np.where(expected.sum(-1) > 0, limit, len(arrays.edges))


def latency_counts(arrays: EvidenceArrays, policy: Policy, q: float) -> Floats:
    """(..., W, 2) The candidate's requests below and above that edge; none without an edge."""
    limit = latency_limit(arrays, policy, q)
    total = np.cumsum(arrays.candidate.latency, -2)
    slower = total.sum(-1, keepdims=True) - np.cumsum(total, -1)
    above = np.take_along_axis(slower, limit[..., None], -1)[..., 0]
    counted: Floats = np.stack([total.sum(-1) - above, above], -1)
    return np.where(limit[..., None] < len(arrays.edges), counted, 0)


def accuracy(arrays: EvidenceArrays, policy: Policy) -> Measure:
    """Golden images lost; the size is the share lost on balance.

    With nothing tolerated the bet is McNemar's: only images that one version alone gets right tell.
    """
    counts = lost(arrays)
    odds = betting.log_odds(counts, LOSS, policy.tolerated_accuracy_loss, "above")
    safety = betting.log_odds(counts, LOSS, policy.harmful_accuracy_loss, "below")
    size = (counts[..., 2] - counts[..., 0]) / np.maximum(counts.sum(-1), 1)
    harmful = odds >= np.log(policy.odds_of_harm("accuracy"))
    safe = safety >= np.log(policy.odds_of_safety)
    return Measure(harmful, safe & ~harmful, odds, safety, size)


def disagreement(arrays: EvidenceArrays, policy: Policy) -> Measure:
    """Golden images that the versions answer differently; the size is their share."""
    counts, limit = apart(arrays), policy.harmful_disagreement
    odds = betting.log_odds(counts, SHARE, limit, "above")
    safety = betting.log_odds(counts, SHARE, limit, "below")
    size = counts[..., 1] / np.maximum(counts.sum(-1), 1)
    harmful = odds >= np.log(policy.odds_of_harm("disagreement"))
    safe = safety >= np.log(policy.odds_of_safety)
    return Measure(harmful, safe & ~harmful, odds, safety, size)


def lost(arrays: EvidenceArrays) -> Floats:
    """(..., W, 3) Golden images so far, in the order of `LOSS`."""
    right, stable, candidate, alike, differ = np.moveaxis(np.cumsum(arrays.golden, -2), -1, 0)
    return np.stack([candidate, right + alike + differ, stable], -1)


def apart(arrays: EvidenceArrays) -> Floats:
    """(..., W, 2) Golden images so far that were answered alike, and differently."""
    right, stable, candidate, alike, differ = np.moveaxis(np.cumsum(arrays.golden, -2), -1, 0)
    return np.stack([right + alike, stable + candidate + differ], -1)


def happened(count: Floats, of: Floats) -> Floats:
    """(..., W, 2) How often something did not happen so far, and did."""
    return np.stack([np.cumsum(of - count, -1), np.cumsum(count, -1)], -1)


def quantile(counts: Floats, edges: Floats, q: float) -> Floats:
    """(...) A quantile of (..., E + 1) counts, straight within its bucket; the last edge beyond."""
    bucket = _bucket(counts, q)
    ends = np.concatenate([[0.0], edges, edges[-1:]])
    reached = np.concatenate([np.zeros_like(counts[..., :1]), np.cumsum(counts, -1)], -1)
    before = np.take_along_axis(reached, bucket[..., None], -1)[..., 0]
    inside = np.take_along_axis(counts, bucket[..., None], -1)[..., 0]
    part = (q * counts.sum(-1) - before) / np.maximum(inside, 1e-12)
    value: Floats = ends[bucket] + part * (ends[bucket + 1] - ends[bucket])
    return value


def _bucket(counts: Floats, q: float) -> Any:
    """(...) Index of the bucket that a quantile lies in."""
    reached = np.cumsum(counts, -1)
    return np.argmax(reached >= q * reached[..., -1:] * (1 - 1e-12), -1)


def _slower(latency: Floats) -> Floats:
    """(..., E, W) Requests of (..., W, E + 1) that took longer than each edge."""
    slower: Floats = latency.sum(-1, keepdims=True) - np.cumsum(latency, -1)
    return slower[..., :-1].swapaxes(-1, -2)
