"""The verdict on a candidate: every comparison with stable, its reasons, and the decision.

How often a release without harm is rolled back is bounded for all tests and looks together
(`Policy.false_alarm_rate`), so judge whenever there is news. See measures.py for the tests.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from common import betting
from common.betting import Floats
from common.model.artifact import DriftReference, SignalReference
from common.model.drift import CLASSES, Counts, DriftLimits, Statistic, compare
from common.model.signals import CONFIDENCE
from infra.release.verdict import measures
from infra.release.verdict.evidence import Evidence
from infra.release.verdict.measures import (
    LOSS,
    SHARE,
    EvidenceArrays,
    Measure,
    evidence_arrays,
    if_stable,
)
from infra.release.verdict.policy import DEFAULT_POLICY, Policy


@dataclass(frozen=True)
class PredictionShift:
    """How predictions of the candidate differ from stable's; None where an arm has too few."""

    images: float  # of the arm that has fewer
    class_mix: Statistic | None
    confidence: Statistic | None  # the KS distance, for which bins have an order


@dataclass(frozen=True)
class SignalCounts:
    """Counts of one signal after every window: the candidate's, and stable's weighted to match.

    Weighting windows makes shares less certain, as if there were (sum w)^2 / sum(w^2 / n) images.
    """

    live: Floats  # (..., W, B) the candidate's counts
    shares: Floats  # (..., W, B) of what stable would have predicted
    size: Floats  # (..., W) images that these shares are worth

    def at(self, place: tuple[int, ...]) -> "SignalCounts":
        """The counts of one release at one look: (B,), (B,), ()."""
        return SignalCounts(self.live[place], self.shares[place], self.size[place])


def signal_counts(arrays: EvidenceArrays, what: str) -> SignalCounts:
    """What both arms predicted, as `what`: `classes` or `confidence`."""
    live, expected = if_stable(arrays, what)
    theirs = getattr(arrays.stable, what).sum(-1)
    mine = np.where(theirs > 0, getattr(arrays.candidate, what).sum(-1), 0)
    spread = np.cumsum(mine**2 / np.maximum(theirs, 1), -1)
    size = np.cumsum(mine, -1) ** 2 / np.maximum(spread, 1e-9)
    return SignalCounts(live, expected / np.maximum(expected.sum(-1, keepdims=True), 1e-9), size)


def prediction_shift(
    classes: SignalCounts, confidence: SignalCounts, policy: Policy, look: int
) -> PredictionShift:
    """Compare one release at one look, the first being 1."""
    images = min(float(classes.live.sum()), float(classes.size))
    if images < policy.fewest_images:
        return PredictionShift(images, None, None)
    signals: tuple[SignalReference, ...] = ()
    counts = {}
    if min(float(confidence.live.sum()), float(confidence.size)) >= policy.fewest_images:
        # Counts are compared bin by bin: where the edges are makes no difference.
        edges = tuple(float(edge) for edge in range(1, len(confidence.shares)))
        shares = tuple(confidence.shares.tolist())
        signals = (SignalReference(CONFIDENCE, 0.0, 0.0, edges, shares),)
        counts = {CONFIDENCE: confidence.live.astype(int).tolist()}
    limits = DriftLimits(
        false_alarm_rate=policy.rate_at_look(look),
        psi=policy.harmful_class_mix_psi,
        ks=policy.harmful_confidence_ks,
        fewest_images=policy.fewest_images,
    )
    reference = DriftReference(round(float(classes.size)), tuple(classes.shares.tolist()), signals)
    report = compare(reference, Counts(classes.live.astype(int).tolist(), counts), limits)
    found = {(statistic.signal, statistic.kind): statistic for statistic in report.statistics}
    return PredictionShift(images, found.get((CLASSES, "psi")), found.get((CONFIDENCE, "ks")))


Decision = Literal["promote", "hold", "roll back"]
State = Literal["harmful", "safe", "unsure"]


@dataclass(frozen=True)
class Figure:
    """A number that a check turned on, and the number that it is held against."""

    name: str
    value: float
    limit: float


@dataclass(frozen=True)
class Check:
    """One comparison of the candidate with stable."""

    name: str
    state: State
    words: str  # what was seen, and what follows
    figures: tuple[Figure, ...] = ()
    needed: str = ""  # what is missing, if unsure


@dataclass(frozen=True)
class Verdict:
    """The decision and everything that it rests on."""

    decision: Decision
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]


def decide(checks: tuple[Check, ...], policy: Policy = DEFAULT_POLICY) -> Verdict:
    """Harm anywhere rolls back, safety wherever it is required promotes, anything else waits.

    The checks that only inform do neither.
    """
    acting = [check for check in checks if check.name not in policy.informing]
    harmful = [check for check in acting if check.state == "harmful"]
    if harmful:
        return Verdict("roll back", _reasons(harmful, lambda check: check.words), checks)
    needed = [check for check in acting if check.name in policy.required]
    unsure = [check for check in needed if check.state == "unsure"]
    if unsure:
        return Verdict("hold", _reasons(unsure, lambda check: check.needed), checks)
    return Verdict("promote", _reasons(needed, lambda check: check.words), checks)


def _reasons(checks: list[Check], words: Callable[[Check], str]) -> tuple[str, ...]:
    return tuple(f"{check.name}: {words(check)}" for check in checks)


_MOST_ODDS = 1e12  # beyond, a number says no more
_GROWTH = np.geomspace(1, 1e4, 400)  # how far ahead more of the same evidence is looked for


def judge(evidence: Evidence, policy: Policy = DEFAULT_POLICY) -> Verdict:
    """The verdict on all windows so far."""
    arrays = evidence_arrays(evidence)
    looks = max(1, len(evidence.windows))
    classes = signal_counts(arrays, "classes")
    confidence = signal_counts(arrays, "confidence")
    found = prediction_shift(classes.at((-1,)), confidence.at((-1,)), policy, looks)
    quiet = bool(measures.is_quiet(arrays, policy)[-1])
    no_classes, no_confidence = (
        bool(measures.is_unreported(arrays, what, policy)[-1]) for what in ("classes", "confidence")
    )
    shifts = (
        ("class mix", "PSI", found.class_mix, policy.harmful_class_mix_psi, no_classes),
        (
            "confidence",
            "KS",
            found.confidence,
            policy.harmful_confidence_ks,
            no_classes or no_confidence,
        ),
    )
    checks = (
        _errors(arrays, policy),
        _refusals(arrays, policy),
        _latency(arrays, policy),
        _accuracy(arrays, policy),
        _disagreement(arrays, policy),
        _memory(evidence, arrays, policy),
        _cold_start(arrays, policy),
        _log_content(evidence, arrays),
        *(
            _predictions(name, kind, shift, found.images, limit, quiet=quiet, alone=alone)
            for name, kind, shift, limit, alone in shifts
        ),
        *([_labels(arrays, policy)] if arrays.labelled else []),
    )
    return decide(checks, policy)


def _errors(arrays: EvidenceArrays, policy: Policy) -> Check:
    measure = measures.errors(arrays, policy)
    stable, candidate = arrays.stable, arrays.candidate
    failed = f"{_of(candidate.errors, candidate.requests)} candidate requests failed"
    failed += f", {_of(stable.errors, stable.requests)} of stable"
    if measures.is_quiet(arrays, policy)[-1]:
        stable, candidate = arrays.replay_stable, arrays.replay_candidate
        failed += f"; {_of(candidate.errors, candidate.requests)} of the replay's calls"
    limit = float(measures.error_limit(stable, policy)[-1])
    counts = measures.happened(candidate.errors, candidate.requests)[-1]
    most = float(betting.bound(counts, SHARE, 2 * policy.odds_of_safety, "above"))
    words = {
        "harmful": f"{failed}: {float(measure.size[-1]):.2%} more than stable at the same times, "
        f"which {_chance(measure)}",
        "safe": f"{failed}: the candidate fails at most {most:.2%}, and {limit:.2%} is allowed",
        "unsure": f"{failed}: no harm shown, but the candidate may fail up to {most:.2%} "
        f"({limit:.2%} is allowed)",
    }
    needed = _needed(counts, SHARE, limit, 2 * policy.odds_of_safety, "candidate requests")
    if measures.is_unanswered(arrays)[-1]:
        words["unsure"], needed = f"{failed}: {_UNANSWERED}", _ANSWERED
    return _check("errors", measure, words, needed, policy, 2 * policy.odds_of_safety)


def _refusals(arrays: EvidenceArrays, policy: Policy) -> Check:
    measure = measures.refusals(arrays, policy)
    stable, candidate = arrays.stable, arrays.candidate
    seen = f"{_of(candidate.refusals, candidate.requests)} candidate requests were refused (4xx)"
    seen += f", {_of(stable.refusals, stable.requests)} of stable"
    size, limit = float(measure.size[-1]), policy.tolerated_refusal_excess
    words = {
        "harmful": f"{seen}: of one status {size:.2%} more at the same times, which "
        f"{_chance(measure)}",
        "safe": f"{seen}: no status is given {limit:.2%} more often",
        "unsure": f"{seen}: no harm shown, but one status is given {size:.2%} more often"
        if size > limit
        else f"{seen}: too few to compare",
    }
    needed = "more candidate requests"
    if measures.is_unanswered(arrays)[-1]:
        words["unsure"], needed = f"{seen}: {_UNANSWERED}", _ANSWERED
    elif measures.is_refused_alone(arrays, policy)[-1]:
        words["unsure"] = (
            f"{seen}: stable's version reports no answer to compare with, and more than "
            f"{policy.most_refused:.0%} is too much to go on"
        )
        needed = "a stable version that reports its answers, or a decision by hand"
    return _check("refusals", measure, words, needed, policy)


_UNANSWERED = "no caller that met the candidate was served, and the replay cannot tell why"
_ANSWERED = "one caller that is served, or a decision by hand"


def _latency(arrays: EvidenceArrays, policy: Policy) -> Check:
    measure = measures.latency(arrays, policy)
    unreported = measures.is_unreported(arrays, "latency", policy)
    quiet = measures.is_quiet(arrays, policy)
    waits = bool((quiet & measures.seems_slower(arrays, policy))[-1])
    if (quiet | unreported)[-1] and not waits:
        arrays = measures.replay_alone(arrays)
    candidate, expected = if_stable(arrays, "latency")
    times = [
        f"p{100 * q:.0f} {_time(candidate[-1], arrays.edges, q)}"
        f" (stable {_time(expected[-1], arrays.edges, q)})"
        for q in measures.QUANTILES
    ]
    text = ", ".join(times) if expected[-1].sum() else "no latencies of both versions"
    limits = [int(measures.latency_limit(arrays, policy, q)[-1]) for q in measures.QUANTILES]
    if max(limits) == len(arrays.edges):
        allowed = f"stable's lies beyond the last bucket, {1000 * arrays.edges[-1]:g} ms"
        allowed = allowed if expected[-1].sum() else "nothing to compare with"
        needed = "latencies of both versions, inside the buckets"
    else:
        p50, p99 = (f"{1000 * arrays.edges[limit]:g} ms" for limit in limits)
        allowed = f"p50 may be up to {p50}, p99 up to {p99}"
        needed = _needed_latency(arrays, policy)
    words = {
        "harmful": f"{text}: {float(measure.size[-1]):.1f} times stable's at the same times, and "
        f"a difference that {_chance(measure)}",
        "safe": f"{text}: {allowed}, and that is kept",
        "unsure": f"{text}: the few callers wait longer for the candidate; {allowed}"
        if waits
        else f"{text}: no harm shown, but too little to be sure; {allowed}",
    }
    return _check("latency", measure, words, needed, policy)


def _needed_latency(arrays: EvidenceArrays, policy: Policy) -> str:
    """What the quantile that needs more asks for: nearly always the tail."""
    quantiles = measures.QUANTILES
    counts = [measures.latency_counts(arrays, policy, q)[-1] for q in quantiles]
    odds = [
        float(betting.log_odds(seen, SHARE, 1 - q, "below"))
        for seen, q in zip(counts, quantiles, strict=True)
    ]
    worst = int(np.argmin(odds))
    limit, odds_of_safety = 1 - quantiles[worst], policy.odds_of_safety
    return _needed(counts[worst], SHARE, limit, odds_of_safety, "candidate requests")


def _accuracy(arrays: EvidenceArrays, policy: Policy) -> Check:
    measure = measures.accuracy(arrays, policy)
    counts = measures.lost(arrays)[-1]
    low = float(betting.bound(counts, LOSS, policy.odds_of_safety, "below"))
    high = float(betting.bound(counts, LOSS, policy.odds_of_safety, "above"))
    text = (
        "no golden image yet"
        if not counts.sum()
        else (
            f"of {counts.sum():,.0f} golden images the candidate loses {counts[2]:,.0f} that "
            f"stable gets right, and gains {counts[0]:,.0f}: {_points(float(measure.size[-1]))}"
        )
    )
    allowed = f"a loss of {100 * policy.harmful_accuracy_loss:g} points"
    range_ = f"between {_points(low)} and {_points(high)}"
    words = {
        "harmful": f"{text} ({range_}), which {_chance(measure)}",
        "safe": f"{text}; {allowed} is ruled out",
        "unsure": f"{text}; the truth lies {range_}, so {allowed} is not ruled out",
    }
    limit = policy.harmful_accuracy_loss
    needed = _needed(counts, LOSS, limit, policy.odds_of_safety, "golden images")
    labelled = arrays.labelled is not None
    return _check("accuracy", measure, words, needed, policy, labelled=labelled)


def _disagreement(arrays: EvidenceArrays, policy: Policy) -> Check:
    measure = measures.disagreement(arrays, policy)
    counts, limit = measures.apart(arrays)[-1], policy.harmful_disagreement
    seen = f"{_share(counts[1], counts.sum())} golden images are answered differently"
    words = {
        "harmful": f"{seen}: more than {limit:.0%} is proven, which {_chance(measure)}",
        "safe": f"{seen}: {limit:.0%} or more is ruled out",
        "unsure": f"{seen}: whether that is below {limit:.0%} is not certain yet",
    }
    needed = _needed(counts, SHARE, limit, policy.odds_of_safety, "golden images")
    return _check("disagreement", measure, words, needed, policy)


def _labels(arrays: EvidenceArrays, policy: Policy) -> Check:
    measure = measures.labels(arrays, policy)
    assert arrays.labelled is not None
    stable, candidate = (arm.sum(0) for arm in arrays.labelled)
    text = f"{_share(candidate[1], candidate.sum())} labelled answers of the candidate are wrong, "
    text += f"{_share(stable[1], stable.sum())} of stable's"
    size, limit = float(measure.size[-1]), policy.tolerated_wrong_excess
    words = {
        "harmful": f"{text}: {_points(size)} at the same times, which {_chance(measure)}",
        "safe": f"{text}: {100 * limit:g} points more is not seen, or chance explains it",
        "unsure": f"{text}: no harm shown, but {_points(size)}",
    }
    return _check("labels", measure, words, "more labelled answers", policy)


def _memory(evidence: Evidence, arrays: EvidenceArrays, policy: Policy) -> Check:
    measure = measures.memory(arrays, policy)
    stable, candidate = arrays.stable, arrays.candidate
    grown = sum(window.candidate.reports.grown_mb for window in evidence.windows)
    settled, limit = float(candidate.settled.sum()), policy.harmful_memory_growth
    peaks = [float(arm.peak.max()) for arm in (candidate, stable)]
    text = f"{_of(candidate.grew, candidate.settled)} calls left their environment with more memory"
    text += f", {grown / max(settled, 1):.2f} MB a call ({_of(stable.grew, stable.settled)} of "
    text += f"stable's); the peak is {peaks[0]:.0%} of the limit ({peaks[1]:.0%})"
    is_close = peaks[0] >= policy.harmful_memory_peak and peaks[0] > peaks[1]
    words = {
        "harmful": f"{text}: a leak, which {_chance(measure)}",
        "safe": f"{text}: {limit:.0%} more calls than of stable is ruled out",
        "unsure": f"{text}: too close to the limit, {policy.harmful_memory_peak:.0%} is allowed"
        if is_close
        else f"{text}: no leak shown, but {limit:.0%} more calls than of stable is not ruled out",
    }
    needed = "less memory, or a higher limit" if is_close else "more calls of warm environments"
    return _check("memory", measure, words, needed, policy, 2 * policy.odds_of_safety)


def _cold_start(arrays: EvidenceArrays, policy: Policy) -> Check:
    measure = measures.cold_start(arrays, policy)
    starts = [arm.starts.sum(0) for arm in (arrays.candidate, arrays.stable)]
    medians = [_time(counts, arrays.edges, 0.5) if counts.sum() else "none" for counts in starts]
    text = f"{starts[0].sum():,.0f} cold starts, p50 {medians[0]} (stable {starts[1].sum():,.0f}, "
    text += f"p50 {medians[1]})"
    ratio = policy.tolerated_cold_start_ratio
    words = {
        "harmful": f"{text}: {float(measure.size[-1]):.1f} times stable's, which "
        f"{_chance(measure)}",
        "safe": f"{text}: none of both to compare"
        if "none" in medians
        else f"{text}: below {ratio:g} times stable's, or chance explains it",
        "unsure": f"{text}: above {ratio:g} times stable's, but it may be chance"
        if starts[0].sum()
        else "Lambda has reported no call of the candidate yet",
    }
    return _check("cold start", measure, words, "more cold starts, or reports of calls", policy)


def _log_content(evidence: Evidence, arrays: EvidenceArrays) -> Check:
    """Kinds and counts alone: whoever may read a verdict may not read a secret."""
    measure = measures.log_content(arrays)
    found: Counter[str] = Counter()
    for window in evidence.windows:
        found.update(window.candidate.secrets)
    lines = float(arrays.candidate.lines.sum())
    text = f"{lines:,.0f} lines of the candidate's log were searched"
    if measure.harmful[-1]:
        kinds = ", ".join(f"{count:,} with {kind}" for kind, count in sorted(found.items()))
        words = f"{text}: {kinds}. Replace what was logged, and delete those lines"
        return Check("log content", "harmful", words, (Figure("lines", found.total(), 0),))
    if measure.safe[-1]:
        return Check("log content", "safe", f"{text}: neither keys nor images in them")
    return Check("log content", "unsure", f"{text}", needed="lines of the candidate's log")


def _predictions(
    name: str,
    kind: str,
    found: Statistic | None,
    images: float,
    limit: float,
    *,
    quiet: bool,
    alone: bool,
) -> Check:
    """Check of a kind of statistic; `alone` where the candidate reports it and stable does not."""
    if found is None and alone:
        words = "stable's version does not report it: golden images tell instead"
        return Check(name, "safe", words)
    if found is None and quiet:
        words = f"{images:,.0f} predictions of callers' images: golden images tell instead"
        return Check(name, "safe", words)
    if found is None:
        words = f"{images:,.0f} predictions of both versions are too few to compare"
        return Check(name, "unsure", words, needed="more predictions of both versions")
    state: State = "harmful" if found.drifted else "safe" if found.value <= limit else "unsure"
    seen = f"{kind} {found.value:.3f} between the versions' predictions at the same times"
    words = {
        "harmful": f"{seen}: above {found.threshold:.3f}, which chance does not explain",
        "safe": f"{seen}: within {limit:g}",
        "unsure": f"{seen}: above {limit:g}, but up to {found.threshold:.3f} it may be chance",
    }[state]
    figure = Figure(kind, found.value, found.threshold)
    return Check(name, state, words, (figure,), "more predictions of both versions")


def _check(
    name: str,
    measure: Measure,
    words: dict[str, str],
    needed: str,
    policy: Policy,
    odds_of_safety: float | None = None,
    *,
    labelled: bool = False,
) -> Check:
    harmful, safe = bool(measure.harmful[-1]), bool(measure.safe[-1])
    state: State = "harmful" if harmful else "safe" if safe else "unsure"
    limit = policy.odds_of_harm(name, labelled=labelled)
    odds_of_harm = Figure("odds of harm", _odds(measure.odds_of_harm), limit)
    difference = Figure("difference", float(measure.size[-1]), _tolerated(name, policy))
    figures: tuple[Figure, ...] = (odds_of_harm, difference)
    if measure.odds_of_safety is not None:
        needed_odds = odds_of_safety or policy.odds_of_safety
        kept = Figure("odds of safety", _odds(measure.odds_of_safety), needed_odds)
        figures = (odds_of_harm, kept, difference)
    return Check(name, state, words[state], figures, needed if state == "unsure" else "")


def _tolerated(name: str, policy: Policy) -> float:
    return {
        "errors": policy.tolerated_error_excess,
        "refusals": policy.tolerated_refusal_excess,
        "latency": policy.tolerated_latency_ratio,
        "accuracy": policy.tolerated_accuracy_loss,
        "disagreement": policy.harmful_disagreement,
        "memory": policy.tolerated_memory_growth,
        "cold start": policy.tolerated_cold_start_ratio,
        "labels": policy.tolerated_wrong_excess,
    }[name]


def _needed(counts: Floats, values: tuple[float, ...], limit: float, odds: float, unit: str) -> str:
    """How much more is needed to rule the limit out if it goes on as so far; from nothing, if no
    harm is seen at all."""
    seen = counts if counts.sum() else np.equal(values, 0.0)
    enough = betting.log_odds(_GROWTH[:, None] * seen, values, limit, "below") >= np.log(odds)
    if not enough.any():
        return f"more {unit}; how many cannot be estimated yet: so far it does not look safe"
    more = seen.sum() * _GROWTH[np.argmax(enough)] - counts.sum()
    return f"about {max(1, float(f'{more:.2g}')):,.0f} more {unit}, if they go like those so far"


def _odds(log_odds: Floats) -> float:
    return float(min(np.exp(min(float(log_odds[-1]), 700)), _MOST_ODDS))


def _chance(measure: Measure) -> str:
    odds = _odds(measure.odds_of_harm)
    return f"chance does in less than one release of {min(odds, 1e6):,.0f}"


def _of(count: Floats, of: Floats) -> str:
    return _share(float(count.sum()), float(of.sum()))


def _share(count: float, of: float) -> str:
    return f"{count:,.0f} of {of:,.0f} ({count / max(of, 1):.2%})"


def _points(loss: float) -> str:
    return f"{100 * abs(loss):.2f} points {'lost' if loss >= 0 else 'gained'}"


def _time(counts: Floats, edges: Floats, q: float) -> str:
    return f"{1000 * float(measures.quantile(counts, edges, q)):.3g} ms"
