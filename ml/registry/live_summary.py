"""What was last measured of a version's live quality: a small file a version, which the registry
shows without looking at captures. The standard library alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.files import kept_place, write_whole


@dataclass(frozen=True)
class Share:
    """An accuracy with its interval, over so many captured or labelled answers."""

    value: float
    low: float
    high: float
    rows: int

    @property
    def text(self) -> str:
        """``91.2% (90.1–92.3)``."""
        return f"{self.value:.1%} ({100 * self.low:.1f}–{100 * self.high:.1f})"


@dataclass(frozen=True)
class Summary:
    """Live quality of one version.

    Attributes:
        made, since, until: seconds since 1970: when it was measured, and the span of the answers.
        recalibrated: the expectation is not the model's own confidence alone.
        labelled: None without a label.
        chosen: whoever labelled chose what to label.
        promise: accuracy below which is too little; None where the model was not at hand.
        says: `Quality.says`.
        drifted: signals that are no longer like the reference.
    """

    version: str
    made: float
    since: float
    until: float
    expected: Share
    recalibrated: bool
    labelled: Share | None
    chosen: bool
    promise: float | None
    says: str
    drifted: tuple[str, ...]

    @property
    def text(self) -> str:
        """For a table: ``91.2% (90.1–92.3), 412 labels``, or ``~ 90.4% (88.9–91.8)``."""
        if self.labelled:
            return f"{self.labelled.text}, {self.labelled.rows:,} labels"
        return f"~ {self.expected.text}"


def usual_folder() -> Path:
    """Where summaries and recalibrations are if nobody says."""
    return Path(kept_place("KILN_LIVE", "live"))


def write_summary(summary: Summary, folder: Path) -> Path:
    """Writes ``<version>.json``, whole or not at all."""
    path = folder / f"{summary.version}.json"
    write_whole(path, json.dumps(asdict(summary), indent=2, allow_nan=False) + "\n")
    return path


def read_summary(version: str, folder: Path) -> Summary | None:
    """What was written for a version; None if nothing was, or by another release."""
    try:
        found = json.loads((folder / f"{version}.json").read_text(encoding="utf-8"))
        return _parsed(found)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def read_summaries(versions: Iterable[str]) -> dict[str, Summary]:
    """What is known of these versions in the usual folder."""
    folder = usual_folder()
    found = ((version, read_summary(version, folder)) for version in versions)
    return {version: one for version, one in found if one is not None}


def _parsed(found: Mapping[str, Any]) -> Summary:
    labelled = found["labelled"]
    parsed = {
        "expected": Share(**found["expected"]),
        "labelled": None if labelled is None else Share(**labelled),
        "drifted": tuple(found["drifted"]),
    }
    return Summary(**{**found, **parsed})
