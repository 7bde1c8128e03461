"""Does the canary answer like stable? Class mix and confidence, by the statistics of live drift.

The comparison is serve/contract/drift.py's, with stable in the reference's place. It is not made
for looking again and again, so each look has a part of the false-alarm rate of its own.
"""

from dataclasses import dataclass

import numpy as np

from infra.release.verdict.betting import Floats
from infra.release.verdict.policy import Policy
from infra.release.verdict.tallies import Tallies, if_stable
from serve.contract.drift import CLASSES, Counts, Limits, Statistic, compare
from serve.contract.signals import CONFIDENCE
from serve.contract.values import DriftReference, SignalReference


@dataclass(frozen=True)
class Answers:
    """What both arms answered so far; None where too little is known of one of them."""

    images: float  # of the arm that has fewer
    class_mix: Statistic | None
    confidence: Statistic | None  # the KS distance, for which bins have an order


@dataclass(frozen=True)
class Seen:
    """One signal after every window: counts of the canary, and stable in its place.

    Weighting windows makes shares less certain, as if there were (sum w)^2 / sum(w^2 / n) images.
    """

    live: Floats  # (..., W, B) the canary's counts
    shares: Floats  # (..., W, B) of what stable would have answered
    size: Floats  # (..., W) images that these shares are worth

    def at(self, place: tuple[int, ...]) -> "Seen":
        """One release at one look: (B,), (B,), ()."""
        return Seen(self.live[place], self.shares[place], self.size[place])


def side_by_side(tallies: Tallies, what: str) -> Seen:
    """What both arms answered: `classes` or `confidence`."""
    live, expected = if_stable(tallies, what)
    theirs = getattr(tallies.stable, what).sum(-1)
    mine = np.where(theirs > 0, getattr(tallies.canary, what).sum(-1), 0)
    spread = np.cumsum(mine**2 / np.maximum(theirs, 1), -1)
    size = np.cumsum(mine, -1) ** 2 / np.maximum(spread, 1e-9)
    return Seen(live, expected / np.maximum(expected.sum(-1, keepdims=True), 1e-9), size)


def answers(classes: Seen, confidence: Seen, policy: Policy, look: int) -> Answers:
    """Compare one release at one look, the first being 1."""
    images = min(float(classes.live.sum()), float(classes.size))
    if images < policy.fewest_images:
        return Answers(images, None, None)
    signals: tuple[SignalReference, ...] = ()
    counts = {}
    if min(float(confidence.live.sum()), float(confidence.size)) >= policy.fewest_images:
        # Counts are compared bin by bin: where the edges are makes no difference.
        edges = tuple(float(edge) for edge in range(1, len(confidence.shares)))
        shares = tuple(confidence.shares.tolist())
        signals = (SignalReference(CONFIDENCE, 0.0, 0.0, edges, shares),)
        counts = {CONFIDENCE: confidence.live.astype(int).tolist()}
    limits = Limits(
        false_alarm_rate=policy.rate_at_look(look),
        psi=policy.harmful_class_mix_psi,
        ks=policy.harmful_confidence_ks,
        fewest_images=policy.fewest_images,
    )
    reference = DriftReference(round(float(classes.size)), tuple(classes.shares.tolist()), signals)
    report = compare(reference, Counts(classes.live.astype(int).tolist(), counts), limits)
    found = {(statistic.signal, statistic.kind): statistic for statistic in report.statistics}
    return Answers(images, found.get((CLASSES, "psi")), found.get((CONFIDENCE, "ks")))
