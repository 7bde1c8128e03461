"""Labelled answers of both versions, from the store in which the service keeps what it captured.

The service keeps unsure answers more often than sure ones, and people may be shown the unsure ones
first. Of each version's labelled answers those are counted that a hash of their id draws, so that
all have had the same chance: what is counted is a fair sample of the version's answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.captures import CapturedAnswer, Captures, hash_uniform
from common.objects import StoreError
from common.stores import open_store
from infra.release.errors import ReleaseError
from infra.release.verdict.evidence import Labelled

NONE = Labelled()


@dataclass(frozen=True)
class LabelReader:
    """Reads the labels of a release's answers.

    Attributes:
        url: of the store, a folder or ``s3://bucket/prefix``.
        least_chance: the chance that the surest answer has of being captured and shown.
    """

    url: str
    least_chance: float

    def totals(
        self, classes: Mapping[str, Sequence[str]], began_s: float, until_s: float
    ) -> dict[str, Labelled]:
        """Right and wrong answers of each model since the release began.

        Args:
            classes: names of the classes of each model, in the model's order.

        Raises:
            ReleaseError: the store cannot be read.
        """
        try:
            captures = Captures(open_store(self.url))
            mine = [
                row for row in captures.answers(began_s, until_s) if row.model_version in classes
            ]
            said = captures.verdicts(about={row.request_id for row in mine})
        except StoreError as exc:
            raise ReleaseError(f"the labelled answers: {exc}") from exc
        right = dict.fromkeys(classes, 0)
        wrong = dict.fromkeys(classes, 0)
        for row in mine:
            if (verdict := said.get(row.key)) is None or verdict.label is None:
                continue
            if self._is_drawn(row, row.probability * (verdict.propensity or 1.0)):
                is_right = verdict.label == classes[row.model_version][row.answer]
                counts = right if is_right else wrong
                counts[row.model_version] += 1
        return {model: Labelled(right[model], wrong[model]) for model in classes}

    def _is_drawn(self, row: CapturedAnswer, chance: float) -> bool:
        return hash_uniform(f"{row.request_id}/{row.index}") < self.least_chance / chance


def since(total: Labelled, earlier: Sequence[Labelled]) -> Labelled:
    """The part of a total that is not in earlier windows; a withdrawn label still counts."""
    return Labelled(
        max(0, total.right - sum(one.right for one in earlier)),
        max(0, total.wrong - sum(one.wrong for one in earlier)),
    )
