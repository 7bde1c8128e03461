"""Evidence as arrays: one release for the judge, thousands side by side for the simulation."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from infra.release.verdict.betting import Floats
from infra.release.verdict.evidence import Arm, Evidence


@dataclass(frozen=True)
class ArmTallies:
    """Counts of one arm; W windows, leading axes are releases."""

    requests: Floats  # (..., W)
    errors: Floats  # (..., W)
    latency: Floats  # (..., W, E + 1)
    classes: Floats  # (..., W, K)
    confidence: Floats  # (..., W, C)


@dataclass(frozen=True)
class Tallies:
    """Counts of both arms at the same times."""

    edges: Floats  # (E,), seconds
    stable: ArmTallies
    canary: ArmTallies
    golden: Floats  # (..., W, 5), in the order of `Replay`


def tally(evidence: Evidence) -> Tallies:
    """The windows of one release. One without any has an empty window, so that there is a last."""
    windows = evidence.windows
    golden = [astuple(window.golden) for window in windows] or [(0,) * 5]
    buckets = len(evidence.latency_edges_s) + 1
    return Tallies(
        edges=np.array(evidence.latency_edges_s, np.float64),
        stable=_arm([window.stable for window in windows] or [Arm()], buckets),
        canary=_arm([window.canary for window in windows] or [Arm()], buckets),
        golden=np.array(golden, np.float64),
    )


def if_stable(tallies: Tallies, what: str) -> tuple[Floats, Floats]:
    """What the canary did so far, and what stable would have done in its place.

    Stable's shares of each window are weighted by the canary's part of it: the canary has most of
    its traffic late, when things may have been different for both.

    Args:
        what: `latency`, `classes` or `confidence`.

    Returns:
        Two (..., W, B), summed over the windows so far in which both answered.
    """
    mine, theirs = getattr(tallies.canary, what), getattr(tallies.stable, what)
    of_mine, of_theirs = mine.sum(-1, keepdims=True), theirs.sum(-1, keepdims=True)
    expected = theirs * of_mine / np.maximum(of_theirs, 1)
    return np.cumsum(np.where(of_theirs > 0, mine, 0), -2), np.cumsum(expected, -2)


def _arm(arms: Sequence[Arm], buckets: int) -> ArmTallies:
    return ArmTallies(
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
