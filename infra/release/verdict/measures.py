"""The sequential tests of the verdict: which harm is proven, and which is ruled out.

Array in, array out: the judge asks for one release, the simulation for thousands, of the same code.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.release.verdict import betting, two_arms
from infra.release.verdict.betting import Floats
from infra.release.verdict.policy import Policy
from infra.release.verdict.tallies import Tallies, if_stable

Truths = NDArray[np.bool_]
QUANTILES = (0.5, 0.99)
SHARE = (0.0, 1.0)  # values of what happens or not
LOSS = (-1.0, 0.0, 1.0)  # of a golden image: gained, no difference, lost


@dataclass(frozen=True)
class Measure:
    """A test after every window, all (..., W)."""

    harmful: Truths
    safe: Truths
    odds_of_harm: Floats  # logarithms
    odds_of_safety: Floats
    size: Floats  # the estimated difference that the limits are about


def errors(tallies: Tallies, policy: Policy) -> Measure:
    """Share of requests that failed; the size is the excess over stable in the same windows."""
    stable, canary = tallies.stable, tallies.canary
    odds = two_arms.log_odds(stable.errors, stable.requests, canary.errors, canary.requests)
    both = np.where(stable.requests > 0, canary.requests, 0)
    share = stable.errors / np.maximum(stable.requests, 1)
    excess = np.cumsum(np.where(both > 0, canary.errors, 0) - share * both, -1)
    size = excess / np.maximum(np.cumsum(both, -1), 1)
    safety = betting.log_odds(
        happened(canary.errors, canary.requests), SHARE, error_limit(tallies, policy), "below"
    )
    harmful = (odds >= np.log(policy.odds_of_harm("errors"))) & (
        size >= policy.tolerated_error_excess
    )
    safe = safety >= np.log(2 * policy.odds_of_safety)
    return Measure(harmful, safe & ~harmful, odds, safety, size)


def error_limit(tallies: Tallies, policy: Policy) -> Floats:
    """(..., W) The error rate that a canary must be below: the least that stable's may be, and the
    harmful excess. Half of the rate of missed harm is spent on stable's."""
    seen = happened(tallies.stable.errors, tallies.stable.requests)
    least = betting.bound(seen, SHARE, 2 * policy.odds_of_safety, "below")
    return np.minimum(least + policy.harmful_error_excess, 1)


def latency(tallies: Tallies, policy: Policy) -> Measure:
    """Time to answer; the size is the worst ratio of a quantile to stable's in the same windows.

    Harm is sought at every edge of the histogram at once, as the share of slower requests: a change
    of the middle shows at one edge, of the tail at another. Safety is that fewer than 1 % of the
    canary's requests are slower than the harmful multiple of stable's p99, and so for the p50.
    """
    of = [arm.latency.sum(-1)[..., None, :] for arm in (tallies.stable, tallies.canary)]
    slower = [_slower(arm.latency) for arm in (tallies.stable, tallies.canary)]
    at_edges = two_arms.log_odds(slower[0], of[0], slower[1], of[1])
    odds = betting.log_mean_exp(np.moveaxis(at_edges, -2, -1))
    seen, expected = if_stable(tallies, "latency")
    ratios = [
        quantile(seen, tallies.edges, q) / np.maximum(quantile(expected, tallies.edges, q), 1e-9)
        for q in QUANTILES
    ]
    size = np.maximum(*ratios)
    safeties = [
        betting.log_odds(latency_counts(tallies, policy, q), SHARE, 1 - q, "below")
        for q in QUANTILES
    ]
    safety = np.minimum(*safeties)
    harmful = (odds >= np.log(policy.odds_of_harm("latency"))) & (
        size >= policy.tolerated_latency_ratio
    )
    safe = safety >= np.log(policy.odds_of_safety)
    return Measure(harmful, safe & ~harmful, odds, safety, size)


def latency_limit(tallies: Tallies, policy: Policy, q: float) -> Any:
    """(..., W) Index of the edge that a quantile of the canary must be below; E if there is none.

    The edge nearest to the harmful multiple of stable's quantile, by ratio, but none inside or
    below stable's own bucket: a histogram cannot tell more than its buckets.
    """
    _, expected = if_stable(tallies, "latency")
    most = policy.harmful_latency_ratio * quantile(expected, tallies.edges, q)
    gaps = np.abs(np.log(tallies.edges) - np.log(np.maximum(most, 1e-9))[..., None])
    limit = np.maximum(_bucket(expected, q), np.argmin(gaps, -1))
    return np.where(expected.sum(-1) > 0, limit, len(tallies.edges))


def latency_counts(tallies: Tallies, policy: Policy, q: float) -> Floats:
    """(..., W, 2) The canary's requests below and above that edge; none where there is no edge."""
    limit = latency_limit(tallies, policy, q)
    total = np.cumsum(tallies.canary.latency, -2)
    slower = total.sum(-1, keepdims=True) - np.cumsum(total, -1)
    above = np.take_along_axis(slower, limit[..., None], -1)[..., 0]
    counted: Floats = np.stack([total.sum(-1) - above, above], -1)
    return np.where(limit[..., None] < len(tallies.edges), counted, 0)


def accuracy(tallies: Tallies, policy: Policy) -> Measure:
    """Golden images lost; the size is the share lost on balance.

    With nothing tolerated the bet is McNemar's: only images that one version alone gets right tell.
    """
    counts = lost(tallies)
    odds = betting.log_odds(counts, LOSS, policy.tolerated_accuracy_loss, "above")
    safety = betting.log_odds(counts, LOSS, policy.harmful_accuracy_loss, "below")
    size = (counts[..., 2] - counts[..., 0]) / np.maximum(counts.sum(-1), 1)
    harmful = odds >= np.log(policy.odds_of_harm("accuracy"))
    safe = safety >= np.log(policy.odds_of_safety)
    return Measure(harmful, safe & ~harmful, odds, safety, size)


def disagreement(tallies: Tallies, policy: Policy) -> Measure:
    """Golden images that the versions answer differently; the size is their share."""
    counts, limit = apart(tallies), policy.harmful_disagreement
    odds = betting.log_odds(counts, SHARE, limit, "above")
    safety = betting.log_odds(counts, SHARE, limit, "below")
    size = counts[..., 1] / np.maximum(counts.sum(-1), 1)
    harmful = odds >= np.log(policy.odds_of_harm("disagreement"))
    safe = safety >= np.log(policy.odds_of_safety)
    return Measure(harmful, safe & ~harmful, odds, safety, size)


def lost(tallies: Tallies) -> Floats:
    """(..., W, 3) Golden images so far, in the order of `LOSS`."""
    right, stable, canary, alike, differ = np.moveaxis(np.cumsum(tallies.golden, -2), -1, 0)
    return np.stack([canary, right + alike + differ, stable], -1)


def apart(tallies: Tallies) -> Floats:
    """(..., W, 2) Golden images so far that were answered alike, and differently."""
    right, stable, canary, alike, differ = np.moveaxis(np.cumsum(tallies.golden, -2), -1, 0)
    return np.stack([right + alike, stable + canary + differ], -1)


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
