"""Ways from a version that answers nobody to one that answers everybody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

StrategyName = Literal["canary", "linear", "blue-green", "all-at-once", "ab"]
STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)

MEANING = {
    "canary": "growing parts of the traffic, judged in between",
    "linear": "equal increments of the traffic, judged in between",
    "blue-green": "no traffic until golden images prove it, then all at once, watched by alarms",
    "all-at-once": "all traffic after the smoke test, watched by alarms",
    "ab": "holds a split, then goes back to stable and reports",
}


@dataclass(frozen=True)
class Step:
    """A part of the traffic for a while.

    Attributes:
        weight: share of the traffic that the candidate gets, 0 for none.
        bake_s: the step lasts this long at least.
        look_s: time between two looks at the evidence.
        proof: whether going on needs the verdict "promote", or just no proof of harm.
    """

    weight: float
    bake_s: float
    look_s: float
    proof: bool


# Without traffic there is no evidence but golden images.
GOLDEN_CHECKS = ("accuracy", "disagreement")
