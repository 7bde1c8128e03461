"""The verdict on a canary: promote, hold or roll back, with reasons for whoever is on call."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

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
    """One comparison of the canary with stable."""

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


def decide(checks: tuple[Check, ...], required: tuple[str, ...]) -> Verdict:
    """Harm anywhere rolls back, safety wherever it is required promotes, anything else waits."""
    harmful = [check for check in checks if check.state == "harmful"]
    if harmful:
        return Verdict("roll back", _reasons(harmful, lambda check: check.words), checks)
    unsure = [check for check in checks if check.state == "unsure" and check.name in required]
    if unsure:
        return Verdict("hold", _reasons(unsure, lambda check: check.needed), checks)
    needed = [check for check in checks if check.name in required]
    return Verdict("promote", _reasons(needed, lambda check: check.words), checks)


def _reasons(checks: list[Check], words: Callable[[Check], str]) -> tuple[str, ...]:
    return tuple(f"{check.name}: {words(check)}" for check in checks)
