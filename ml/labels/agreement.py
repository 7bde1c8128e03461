"""Inter-annotator agreement: Cohen's kappa for each pair of labellers.

Source: Cohen 1960, "A coefficient of agreement for nominal scales", Educational and Psychological
Measurement 20:37-46.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

from common.captures import Verdict


@dataclass(frozen=True)
class Agreement:
    """The agreement of two labellers on the predictions that both have labelled.

    Attributes:
        kappa: 1 for full agreement, 0 for agreement by chance; None if both used only one class,
            where it is undefined.
    """

    one: str
    other: str
    both: int
    same: int
    kappa: float | None


def agreements(verdicts: Iterable[Verdict]) -> list[Agreement]:
    """All pairs of labellers with at least one prediction in common, by name."""
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for verdict in verdicts:
        for one, other in combinations(sorted(verdict.said), 2):
            said = verdict.said[one], verdict.said[other]
            pairs.setdefault((one, other), []).append(said)
    return [_agreement(*names, said) for names, said in sorted(pairs.items())]


def _agreement(one: str, other: str, said: list[tuple[str, str]]) -> Agreement:
    same = sum(a == b for a, b in said)
    return Agreement(one, other, len(said), same, kappa(Counter(said)))


def kappa(table: Mapping[tuple[str, str], int]) -> float | None:
    """Cohen's kappa of a contingency table of two labellers; None where it is undefined."""
    total = sum(table.values())
    first, second = Counter[str](), Counter[str]()
    for (one, other), count in table.items():
        first[one] += count
        second[other] += count
    observed = sum(count for (one, other), count in table.items() if one == other) / total
    by_chance = sum(first[name] * second[name] for name in first) / total**2
    return None if by_chance == 1 else (observed - by_chance) / (1 - by_chance)
