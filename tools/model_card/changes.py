"""How two builds differ, with what chance may do to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

_Z = 1.959964  # 97.5 % of a normal distribution lie below


@dataclass(frozen=True)
class Change:
    """Of a share, from base to head; 95 % sure, the difference lies from `low` to `high`."""

    base: float
    head: float
    low: float
    high: float

    @property
    def is_real(self) -> bool:
        """Chance alone rarely makes that much."""
        return self.low > 0 or self.high < 0


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """95 % interval of a share. Source: Wilson 1927."""
    if trials == 0:
        return 0.0, 1.0
    share, z2 = hits / trials, _Z**2 / trials
    centre = (share + z2 / 2) / (1 + z2)
    reach = _Z * sqrt(share * (1 - share) / trials + z2 / (4 * trials)) / (1 + z2)
    return max(0.0, centre - reach), min(1.0, centre + reach)


def change(base: tuple[int, int], head: tuple[int, int]) -> Change:
    """Of two shares, each as (hits, trials), as if their images had nothing in common.

    Both models answered the same test images, so the true interval is narrower: this is cautious.
    Source: Newcombe 1998, Statistics in Medicine 17, 873-890, method 10.
    """
    (l1, u1), (l2, u2) = wilson(*base), wilson(*head)
    p1, p2 = (hits / trials if trials else 0.0 for hits, trials in (base, head))
    low = p2 - p1 - sqrt((p2 - l2) ** 2 + (u1 - p1) ** 2)
    high = p2 - p1 + sqrt((u2 - p2) ** 2 + (p1 - l1) ** 2)
    return Change(p1, p2, low, high)


def accuracy(base: Mapping[str, Any], head: Mapping[str, Any]) -> Change:
    """Of the test's confusion matrices, rows being true classes."""
    return change(_right(base["confusion"]), _right(head["confusion"]))


def _right(confusion: Sequence[Sequence[int]]) -> tuple[int, int]:
    return sum(row[k] for k, row in enumerate(confusion)), sum(map(sum, confusion))


def recalls(base: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Change]:
    """By class; classes that only one of the two knows are left out."""
    pairs = {name: k for k, name in enumerate(base["classes"])}
    found = {}
    for k, name in enumerate(head["classes"]):
        if name in pairs:
            row, before = head["confusion"][k], base["confusion"][pairs[name]]
            found[name] = change((before[pairs[name]], sum(before)), (row[k], sum(row)))
    return found


@dataclass(frozen=True)
class Layers:
    """Of an image: how many, how large, and what a machine that has the base must fetch."""

    changed: Sequence[str]
    count: int
    total_bytes: int
    new_bytes: int


def layers(base: Sequence[Mapping[str, Any]], head: Sequence[Mapping[str, Any]]) -> Layers:
    """By digest."""
    known = {layer["digest"] for layer in base}
    new = [layer for layer in head if layer["digest"] not in known]
    return Layers(
        [layer["name"] for layer in new],
        len(head),
        sum(layer["bytes"] for layer in head),
        sum(layer["bytes"] for layer in new),
    )
