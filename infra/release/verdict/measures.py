"""The sequential tests of the verdict: which harm is proven, and which is ruled out.

Array in, array out: the judge asks for one release, the simulation for thousands, of the same code.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from msgspec.structs import astuple
from numpy.typing import NDArray

from common import betting
from common.betting import Floats
from infra.release.verdict.evidence import Arm, Evidence
from infra.release.verdict.policy import Policy

Truths = NDArray[np.bool_]
QUANTILES = (0.5, 0.99)
SHARE = (0.0, 1.0)  # values of what happens or not
_SUSPECT = np.log(20)  # odds at which a difference is no longer put down to chance
_FEWEST_CALLERS = 3  # of either version, whose median is to be relied upon
_FEW_STARTS = 20  # medians of more differ by a factor for a reason
LOSS = (-1.0, 0.0, 1.0)  # of a golden image: gained, no difference, lost


# --- Evidence as arrays: one release for the judge, thousands side by side for the simulation ---


@dataclass(frozen=True)
class ArmArrays:
    """Counts of one arm; W windows, leading axes are releases."""

    requests: Floats  # (..., W)
    errors: Floats  # (..., W)
    refusals: Floats  # (..., W, S), one column a status
    latency: Floats  # (..., W, E + 1)
    classes: Floats  # (..., W, K)
    confidence: Floats  # (..., W, C)
    calls: Floats  # (..., W), those that Lambda reported on; see `Reports`
    settled: Floats  # (..., W)
    grew: Floats  # (..., W)
    peak: Floats  # (..., W)
    starts: Floats  # (..., W, E + 1)
    lines: Floats  # (..., W)
    secrets: Floats  # (..., W), of all kinds


@dataclass(frozen=True)
class EvidenceArrays:
    """Counts of both arms at the same times."""

    edges: Floats  # (E,), seconds
    stable: ArmArrays
    candidate: ArmArrays
    golden: Floats  # (..., W, 5), in the order of `Replay`
    replay_stable: ArmArrays  # the calls of that replay
    replay_candidate: ArmArrays
    # (..., W, 2) Stable's and the candidate's labelled answers, right and wrong; None where nobody
    # looks for them.
    labelled: tuple[Floats, Floats] | None = None


def evidence_arrays(evidence: Evidence) -> EvidenceArrays:
    """The windows of one release. One without any has an empty window, so that there is a last."""
    windows = evidence.windows
    golden = [astuple(window.golden) for window in windows] or [(0,) * 5]
    buckets = len(evidence.latency_edges_s) + 1
    names = ("stable", "candidate", "replay_stable", "replay_candidate")
    arms = {name: [getattr(window, name) for window in windows] or [Arm()] for name in names}
    told = [[astuple(getattr(w, f"labelled_{arm}")) for w in windows] for arm in names[:2]]
    labelled = [np.array(rows or [(0, 0)], np.float64) for rows in told]
    statuses = sorted({status for some in arms.values() for arm in some for status in arm.refusals})
    return EvidenceArrays(
        edges=np.array(evidence.latency_edges_s, np.float64),
        golden=np.array(golden, np.float64),
        labelled=(labelled[0], labelled[1]) if evidence.labelled else None,
        **{name: _arm(some, buckets, statuses) for name, some in arms.items()},
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


def _arm(arms: Sequence[Arm], buckets: int, statuses: Sequence[str]) -> ArmArrays:
    return ArmArrays(
        requests=np.array([arm.requests for arm in arms], np.float64),
        errors=np.array([arm.errors for arm in arms], np.float64),
        refusals=np.array(
            [[arm.refusals.get(status, 0) for status in statuses] for arm in arms], np.float64
        ).reshape(len(arms), len(statuses)),
        latency=_rows([arm.latency for arm in arms], buckets),
        classes=_rows([arm.classes for arm in arms], 0),
        confidence=_rows([arm.confidence for arm in arms], 0),
        calls=np.array([arm.reports.calls for arm in arms], np.float64),
        settled=np.array([arm.reports.settled for arm in arms], np.float64),
        grew=np.array([arm.reports.grew for arm in arms], np.float64),
        peak=np.array([arm.reports.peak for arm in arms], np.float64),
        starts=_rows([arm.reports.starts for arm in arms], buckets),
        lines=np.array([arm.lines for arm in arms], np.float64),
        secrets=np.array([sum(arm.secrets.values()) for arm in arms], np.float64),
    )


def _rows(rows: Sequence[tuple[int, ...]], least: int) -> Any:
    """(W, B); a window that counted nothing is a row of zeros."""
    width = max(least, *(len(row) for row in rows))
    return np.array([row or (0,) * width for row in rows], np.float64).reshape(len(rows), width)


# --- The tests ---


@dataclass(frozen=True)
class Measure:
    """A test after every window, all (..., W); safety alone from window `since` on, (..., W -
    since): it takes most of the time, and before a promotion is due nobody asks for it."""

    harmful: Truths
    safe: Truths
    odds_of_harm: Floats  # logarithm
    odds_of_safety: Floats | None  # logarithm; None where safety is judged by size
    size: Floats  # the estimated difference that the limits are about


def errors(arrays: EvidenceArrays, policy: Policy, since: int = 0) -> Measure:
    """Share of requests that failed; the size is the excess over stable in the same windows.

    Callers' requests and the calls of the replay are two bets: the mean of both counts, and the
    larger excess. Safety is callers' alone, or the replay's while callers are few.
    """
    pairs = _pairs(arrays)
    counts = [(mine.errors, mine.requests, new.errors, new.requests) for mine, new in pairs]
    each = [betting.two_arm_log_odds(*seen) for seen in counts]
    odds = _both_odds(arrays, *each)
    excesses = [_excess(*seen) for seen in counts]
    size = _larger(arrays, *excesses)
    safeties = [
        betting.log_odds(
            happened(new.errors, new.requests)[..., since:, :],
            SHARE,
            error_limit(mine, policy, since),
            "below",
        )
        for mine, new in pairs
    ]
    suspect = ((excesses[0] >= policy.harmful_error_excess) & (each[0] >= _SUSPECT))[..., since:]
    suspect |= _is_suspect(*counts[0], policy.harmful_error_excess, since)
    suspect |= is_unanswered(arrays)[..., since:]
    carried = is_quiet(arrays, policy)[..., since:] & ~suspect
    safety = np.where(carried, np.maximum(*safeties), safeties[0])
    harmful = (odds >= np.log(policy.odds_of_harm("errors"))) & (
        size >= policy.tolerated_error_excess
    )
    safe = safety >= np.log(2 * policy.odds_of_safety)
    return Measure(harmful, safe & ~harmful[..., since:], odds, safety, size)


def is_quiet(arrays: EvidenceArrays, policy: Policy) -> Truths:
    """(..., W) Whether callers are too few to prove a promotion by, so that the replay does."""
    few = np.cumsum(arrays.candidate.requests, -1) < policy.fewest_requests
    quiet: Truths = few & _is_replayed(arrays)
    return quiet


def is_unanswered(arrays: EvidenceArrays) -> Truths:
    """(..., W) Whether callers met the candidate and none of them was served, while stable does not
    turn most of its own away: one, two or three callers are too few for any bet."""
    (served, of), (new, new_of) = (
        (
            np.cumsum(arm.requests - arm.errors - arm.refusals.sum(-1), -1),
            np.cumsum(arm.requests, -1),
        )
        for arm in (arrays.stable, arrays.candidate)
    )
    unanswered: Truths = (new_of > 0) & (new == 0) & ((of == 0) | (2 * served > of))
    return unanswered


def has_answered(arm: ArmArrays) -> Truths:
    """(..., W) Whether a version has reported any answer but failures: one that logs nothing, whose
    crashes alone are known, has no share of anything."""
    answered: Truths = np.cumsum(arm.requests - arm.errors, -1) > 0
    return answered


def _is_suspect(
    mine: Floats, mine_of: Floats, new: Floats, new_of: Floats, excess: float, since: int
) -> Truths:
    """(..., W - since) Whether all windows so far, as if they were one, show such an excess, and
    chance seldom does.

    A handful of callers is spread so thin that most windows show one version alone, and are no bet.
    Together they tell, and suspicion is enough for the replay not to carry a promotion.
    """
    counts = [np.cumsum(count, -1)[..., since:, None] for count in (mine, mine_of, new, new_of)]
    suspect: Truths = (_excess(*counts) >= excess) & (betting.two_arm_log_odds(*counts) >= _SUSPECT)
    return suspect[..., 0]


def _by_status(mine: ArmArrays, new: ArmArrays) -> tuple[Floats, Floats, Floats, Floats]:
    """Stable's refusals and requests, then the candidate's: (..., S + 1, W), the sum at the end;
    one status alone is the sum."""
    of = [arm.requests[..., None, :] for arm in (mine, new)]
    refused = [np.moveaxis(arm.refusals, -1, -2) for arm in (mine, new)]
    if refused[0].shape[-2] != 1:
        refused = [np.concatenate([kind, kind.sum(-2, keepdims=True)], -2) for kind in refused]
    return refused[0], of[0], refused[1], of[1]


def _pairs(arrays: EvidenceArrays) -> tuple[tuple[ArmArrays, ArmArrays], ...]:
    """Stable and candidate: callers' requests, and the calls of the replay."""
    return (
        (arrays.stable, arrays.candidate),
        (arrays.replay_stable, arrays.replay_candidate),
    )


def _is_replayed(arrays: EvidenceArrays) -> Truths:
    replayed: Truths = np.cumsum(arrays.replay_candidate.requests, -1) > 0
    return replayed


def _both_odds(arrays: EvidenceArrays, traffic: Floats, replayed: Floats) -> Floats:
    """Logarithm of the mean odds; of traffic's alone for a release without golden images."""
    mean = betting.log_mean_exp(np.stack(np.broadcast_arrays(traffic, replayed), -1))
    return np.where(_is_replayed(arrays), mean, traffic)


def _larger(arrays: EvidenceArrays, traffic: Floats, replayed: Floats) -> Floats:
    return np.where(_is_replayed(arrays), np.maximum(traffic, replayed), traffic)


def _excess(mine: Floats, mine_of: Floats, new: Floats, new_of: Floats) -> Floats:
    """(..., W) By how much the candidate's share exceeds stable's, over windows that have both."""
    both = np.where(mine_of > 0, new_of, 0)
    share = mine / np.maximum(mine_of, 1)
    excess = np.cumsum(np.where(both > 0, new, 0) - share * both, -1)
    found: Floats = excess / np.maximum(np.cumsum(both, -1), 1)
    return found


def error_limit(stable: ArmArrays, policy: Policy, since: int = 0) -> Floats:
    """(..., W - since) The error rate that a candidate must be below: the least that stable's may
    be, and the harmful excess, or the harmful multiple of it where that is more. Half of the rate
    of missed harm is spent on stable's. A stable version that has answered nobody allows none."""
    answered = has_answered(stable)[..., since:, None]
    seen = np.where(answered, happened(stable.errors, stable.requests)[..., since:, :], 0)
    least = betting.bound(seen, SHARE, 2 * policy.odds_of_safety, "below")
    most = np.maximum(least + policy.harmful_error_excess, policy.harmful_error_ratio * least)
    return np.minimum(most, 1)


def refusals(arrays: EvidenceArrays, policy: Policy, since: int = 0) -> Measure:
    """Share of requests that were refused (4xx), by status; the size is the largest excess of one.

    A caller's mistakes meet both versions alike, so a status that the candidate gives more often is
    its own. Every status, and all together, of callers and of the replay is a bet; their mean
    counts. A share of refusals that is ordinary cannot be ruled out to the half of a point by a few
    hundred requests: it is safe where no more than is tolerated is seen, or chance explains it.
    Beside a stable version that reports nothing, `most_refused` of them are too many.
    """
    seen = [_by_status(mine, new) for mine, new in _pairs(arrays)]
    odds = [betting.log_mean_exp(np.moveaxis(betting.two_arm_log_odds(*c), -2, -1)) for c in seen]
    together = _both_odds(arrays, *odds)
    size = _larger(arrays, *(_excess(*counts).max(-2) for counts in seen))
    harmful = (together >= np.log(policy.odds_of_harm("refusals"))) & (
        size >= policy.tolerated_refusal_excess
    )
    enough = np.cumsum(arrays.candidate.requests, -1) >= policy.fewest_images
    small = (size <= policy.tolerated_refusal_excess) | (together < _SUSPECT)
    suspect = _is_suspect(*seen[0], policy.tolerated_refusal_excess, since).any(-2)
    suspect |= is_unanswered(arrays)[..., since:]
    too_many = is_refused_alone(arrays, policy)
    quiet, enough = is_quiet(arrays, policy)[..., since:], enough[..., since:]
    safe = (small & ~too_many & ~harmful)[..., since:] & np.where(quiet, ~suspect, enough)
    return Measure(harmful, safe, together, None, size)


def is_refused_alone(arrays: EvidenceArrays, policy: Policy) -> Truths:
    """(..., W) Whether the candidate refuses too many, where stable reports nothing to compare
    with."""
    new = arrays.candidate
    counts = happened(new.refusals.sum(-1), new.requests)
    odds = betting.log_odds(counts, SHARE, policy.most_refused, "above")
    refused: Truths = (odds >= _SUSPECT) & ~has_answered(arrays.stable)
    return refused


def latency(arrays: EvidenceArrays, policy: Policy, since: int = 0) -> Measure:
    """Time to answer; the size is the worst ratio of a quantile to stable's in the same windows.

    Harm is sought at every edge of the histogram at once, as the share of slower requests: a change
    of the middle shows at one edge, of the tail at another. Safety is that fewer than 1 % of the
    candidate's requests are slower than the harmful multiple of stable's p99, and so for the p50.
    Callers' requests and the calls of the replay are told apart as for errors.
    """
    odds = latency_odds(arrays)
    size, safety = latency_size(arrays), latency_safety(arrays, policy, since)
    harmful = (odds >= np.log(policy.odds_of_harm("latency"))) & (
        size >= policy.tolerated_latency_ratio
    )
    safe = safety >= np.log(policy.odds_of_safety)
    return Measure(harmful, safe & ~harmful[..., since:], odds, safety, size)


def replay_alone(arrays: EvidenceArrays) -> EvidenceArrays:
    """The calls of the replay in the place of callers' requests."""
    return replace(arrays, stable=arrays.replay_stable, candidate=arrays.replay_candidate)


def latency_size(arrays: EvidenceArrays) -> Floats:
    """(..., W) The larger of the worst ratios, of callers' requests and of the replay's calls."""
    return _larger(arrays, _worst_ratio(arrays), _worst_ratio(replay_alone(arrays)))


def _worst_ratio(arrays: EvidenceArrays) -> Floats:
    seen, expected = if_stable(arrays, "latency")
    return np.maximum(
        *(
            quantile(seen, arrays.edges, q) / np.maximum(quantile(expected, arrays.edges, q), 1e-9)
            for q in QUANTILES
        )
    )


def latency_safety(arrays: EvidenceArrays, policy: Policy, since: int = 0) -> Floats:
    """(..., W - since) Odds, as a logarithm, that both quantiles are below their limits: by callers
    alone, or by the replay while callers are few and do not seem to wait longer."""
    traffic, replayed = (
        np.minimum(
            *(
                betting.log_odds(latency_counts(one, policy, q, since), SHARE, 1 - q, "below")
                for q in QUANTILES
            )
        )
        for one in (arrays, replay_alone(arrays))
    )
    quiet = is_quiet(arrays, policy)[..., since:] & ~seems_slower(arrays, policy, since)
    carried = quiet | is_unreported(arrays, "latency", policy)[..., since:]
    return np.where(carried, np.maximum(traffic, replayed), traffic)


def seems_slower(arrays: EvidenceArrays, policy: Policy, since: int = 0) -> Truths:
    """(..., W - since) Whether the few callers so far, as if all windows were one, wait longer for
    the candidate: more than is tolerated, and at some edge chance seldom does; or their median is
    the harmful multiple of stable's, its square where there are one or two. See `_is_suspect`."""
    arms = (arrays.stable, arrays.candidate)
    mine, new = (np.cumsum(arm.latency, -2)[..., since:, :] for arm in arms)
    of = [arm.sum(-1)[..., None, :, None] for arm in (mine, new)]
    slower = [_slower(arm)[..., None] for arm in (mine, new)]
    at_edges = betting.two_arm_log_odds(slower[0], of[0], slower[1], of[1])[..., 0]
    ratios = [
        quantile(new, arrays.edges, q) / np.maximum(quantile(mine, arrays.edges, q), 1e-9)
        for q in QUANTILES
    ]
    slower_at_all = np.maximum(*ratios) >= policy.tolerated_latency_ratio
    callers = np.minimum(mine.sum(-1), new.sum(-1))
    ratio = policy.harmful_latency_ratio
    most = np.where(callers >= _FEWEST_CALLERS, ratio, ratio**2)
    doubled = (callers > 0) & (ratios[0] >= most)
    slow: Truths = (slower_at_all & (at_edges.max(-2) >= _SUSPECT)) | doubled
    return slow


def is_unreported(arrays: EvidenceArrays, what: str, policy: Policy) -> Truths:
    """(..., W) Whether stable's version, an older one perhaps, reports nothing of a kind of which
    the candidate has reported enough, so that the two cannot be compared by callers.

    Args:
        what: `latency`, `classes` or `confidence`.
    """
    mine, new = (
        np.cumsum(getattr(arm, what).sum(-1), -1) for arm in (arrays.stable, arrays.candidate)
    )
    unreported: Truths = (mine == 0) & (new >= policy.fewest_images)
    return unreported


def latency_odds(arrays: EvidenceArrays) -> Floats:
    """(..., W) Odds, as a logarithm, that the candidate is slower."""
    return _both_odds(arrays, _edge_odds(arrays), _edge_odds(replay_alone(arrays)))


def _edge_odds(arrays: EvidenceArrays) -> Floats:
    """(..., W) The same by callers' requests: the mean of all edges' odds."""
    of = [arm.latency.sum(-1)[..., None, :] for arm in (arrays.stable, arrays.candidate)]
    slower = [_slower(arm.latency) for arm in (arrays.stable, arrays.candidate)]
    at_edges = betting.two_arm_log_odds(slower[0], of[0], slower[1], of[1])
    return betting.log_mean_exp(np.moveaxis(at_edges, -2, -1))


def latency_limit(arrays: EvidenceArrays, policy: Policy, q: float, since: int = 0) -> Any:
    """(..., W - since) Index of the edge the candidate's quantile must be below, E for none."""
    _, expected = if_stable(arrays, "latency")
    return _edge_at(expected[..., since:, :], arrays.edges, q, policy.harmful_latency_ratio)


def _edge_at(stable: Floats, edges: Floats, q: float, ratio: float) -> Any:
    """(...) Index of the edge nearest to a multiple of stable's quantile, by ratio, but none inside
    or below stable's own bucket: a histogram cannot tell more than its buckets."""
    most = ratio * quantile(stable, edges, q)
    gaps = np.abs(np.log(edges) - np.log(np.maximum(most, 1e-9))[..., None])
    edge = np.maximum(_bucket(stable, q), np.argmin(gaps, -1))
    return np.where(stable.sum(-1) > 0, edge, len(edges))


def latency_counts(arrays: EvidenceArrays, policy: Policy, q: float, since: int = 0) -> Floats:
    """(..., W - since, 2) The candidate's requests below and above that edge; none without one."""
    seen = np.cumsum(arrays.candidate.latency, -2)[..., since:, :]
    return _split_at(seen, latency_limit(arrays, policy, q, since), arrays.edges)


def _split_at(counts: Floats, edge: Any, edges: Floats) -> Floats:
    """(..., 2) Of (..., E + 1) counts those below and above an edge; none without an edge."""
    slower = counts.sum(-1, keepdims=True) - np.cumsum(counts, -1)
    above = np.take_along_axis(slower, edge[..., None], -1)[..., 0]
    counted: Floats = np.stack([counts.sum(-1) - above, above], -1)
    return np.where(edge[..., None] < len(edges), counted, 0)


def accuracy(arrays: EvidenceArrays, policy: Policy, since: int = 0) -> Measure:
    """Golden images lost; the size is the share lost on balance.

    With nothing tolerated the bet is McNemar's: only images that one version alone gets right tell.
    """
    counts = lost(arrays)
    odds = betting.log_odds(counts, LOSS, policy.tolerated_accuracy_loss, "above")
    safety = betting.log_odds(counts[..., since:, :], LOSS, policy.harmful_accuracy_loss, "below")
    size = (counts[..., 2] - counts[..., 0]) / np.maximum(counts.sum(-1), 1)
    is_labelled = arrays.labelled is not None
    harmful = odds >= np.log(policy.odds_of_harm("accuracy", labelled=is_labelled))
    safe = safety >= np.log(policy.odds_of_safety)
    return Measure(harmful, safe & ~harmful[..., since:], odds, safety, size)


def disagreement(arrays: EvidenceArrays, policy: Policy, since: int = 0) -> Measure:
    """Golden images that the versions answer differently; the size is their share."""
    counts, limit = apart(arrays), policy.harmful_disagreement
    odds = betting.log_odds(counts, SHARE, limit, "above")
    safety = betting.log_odds(counts[..., since:, :], SHARE, limit, "below")
    size = counts[..., 1] / np.maximum(counts.sum(-1), 1)
    harmful = odds >= np.log(policy.odds_of_harm("disagreement"))
    safe = safety >= np.log(policy.odds_of_safety)
    return Measure(harmful, safe & ~harmful[..., since:], odds, safety, size)


def memory(arrays: EvidenceArrays, policy: Policy, since: int = 0) -> Measure:
    """Calls that raised the peak of their environment's memory; the size is their share.

    A leak is what both bets say: that the share is above the tolerated one, and above stable's at
    the same times. Either alone would be mistaken: the candidate's environments are younger, and
    stable may leak as well. A candidate that comes close to the limit, where stable does not, is
    not harmful by that, and not safe either.
    """
    mine, new = arrays.stable, arrays.candidate
    counts = happened(new.grew, new.settled)
    odds = np.minimum(
        betting.log_odds(counts, SHARE, policy.tolerated_memory_growth, "above"),
        betting.two_arm_log_odds(mine.grew, mine.settled, new.grew, new.settled),
    )
    seen = happened(mine.grew, mine.settled)[..., since:, :]
    least = betting.bound(seen, SHARE, 2 * policy.odds_of_safety, "below")
    limit = np.minimum(least + policy.harmful_memory_growth, 1)
    safety = betting.log_odds(counts[..., since:, :], SHARE, limit, "below")
    size = counts[..., 1] / np.maximum(counts.sum(-1), 1)
    harmful = (odds >= np.log(policy.odds_of_harm("memory"))) & (
        size >= policy.tolerated_memory_growth
    )
    peaks = [np.maximum.accumulate(arm.peak, -1) for arm in (mine, new)]
    has_room = (peaks[1] < policy.harmful_memory_peak) | (peaks[1] <= peaks[0])
    safe = (safety >= np.log(2 * policy.odds_of_safety)) & (has_room & ~harmful)[..., since:]
    return Measure(harmful, safe, odds, safety, size)


def cold_start(arrays: EvidenceArrays, policy: Policy, since: int = 0) -> Measure:
    """Duration of cold starts; the size is the ratio of the medians.

    Stable starts seldom while it is released against, so all of its starts, those of the day before
    too, say which share of them lies above an edge. The bet is that more of the candidate's do, and
    more than half: those of a new image take longer until AWS has cached it. It is safe where no
    more than is tolerated is seen, or where so few starts of either explain it by chance: few are
    met by few callers.
    """
    mine, new = (np.cumsum(arm.starts, -2) for arm in (arrays.stable, arrays.candidate))
    edge = _edge_at(mine, arrays.edges, 0.5, policy.tolerated_cold_start_ratio)
    counts = _split_at(new, edge, arrays.edges)
    needed = policy.odds_of_harm("cold start")
    most = betting.bound(_split_at(mine, edge, arrays.edges), SHARE, 2 * needed, "above")
    odds = betting.log_odds(counts, SHARE, np.clip(most, 0.5, 0.999), "above")
    medians = [np.where(c.sum(-1) > 0, quantile(c, arrays.edges, 0.5), np.nan) for c in (mine, new)]
    size = np.nan_to_num(medians[1] / medians[0])
    slower = size >= policy.tolerated_cold_start_ratio
    harmful = (odds >= np.log(2 * needed)) & slower
    is_reported = np.cumsum(arrays.candidate.calls, -1) > 0
    are_few = np.minimum(mine.sum(-1), new.sum(-1)) < _FEW_STARTS
    safe = is_reported & (~slower | (are_few & (odds < _SUSPECT))) & ~harmful
    return Measure(harmful, safe[..., since:], odds, None, size)


def log_content(arrays: EvidenceArrays, since: int = 0) -> Measure:
    """Lines of the candidate's log that hold what no log may hold; the size is their number."""
    found = np.cumsum(arrays.candidate.secrets, -1)
    harmful = found > 0
    safe = (np.cumsum(arrays.candidate.lines, -1) > 0) & ~harmful
    return Measure(harmful, safe[..., since:], np.zeros_like(found), None, found)


def labels(arrays: EvidenceArrays, policy: Policy, since: int = 0) -> Measure:
    """Labelled answers that were wrong; the size is the excess over stable in the same windows.

    Labels are few and come late, or never, so a promotion does not wait for them: it is safe where
    no more than is tolerated is seen, or chance explains it. An arm's labels count in the window in
    which they come.
    """
    if arrays.labelled is None:
        none = np.zeros(arrays.golden.shape[:-1])
        return Measure(none > 0, (none == 0)[..., since:], none, None, none)
    (right, wrong), (new_right, new_wrong) = (np.moveaxis(arm, -1, 0) for arm in arrays.labelled)
    counts = wrong, right + wrong, new_wrong, new_right + new_wrong
    odds, size = betting.two_arm_log_odds(*counts), _excess(*counts)
    above = size >= policy.tolerated_wrong_excess
    harmful = (odds >= np.log(policy.odds_of_harm("labels"))) & above
    safe = (~above | (odds < _SUSPECT)) & ~harmful
    return Measure(harmful, safe[..., since:], odds, None, size)


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
