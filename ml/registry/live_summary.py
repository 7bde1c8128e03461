"""The last measured live quality of a version: a small file per version, which the registry shows
without reading captures. Standard library only.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.files import kept_place, write_whole


@dataclass(frozen=True)
class Share:
    """An accuracy with its interval, and the number of captured or labelled predictions."""

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
        made, since, until: seconds since 1970: time of measurement, span of the predictions.
        recalibrated: the estimate uses more than the model's own confidence.
        labelled: None without labels.
        chosen: labellers chose what to label.
        promise: minimum acceptable accuracy; None if the model was unavailable.
        says: `Quality.says`.
        drifted: signals that drifted from the reference.
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
        """For tables: ``91.2% (90.1–92.3), 412 labels``, or ``~ 90.4% (88.9–91.8)``."""
        if self.labelled:
            return f"{self.labelled.text}, {self.labelled.rows:,} labels"
        return f"~ {self.expected.text}"


def usual_folder() -> Path:
    """Default location of summaries and recalibrations."""
    return Path(kept_place("KILN_LIVE", "live"))


def write_summary(summary: Summary, folder: Path) -> Path:
    """Writes ``<version>.json`` atomically."""
    path = folder / f"{summary.version}.json"
    write_whole(path, json.dumps(asdict(summary), indent=2, allow_nan=False) + "\n")
    return path


def read_summary(version: str, folder: Path) -> Summary | None:
    """A version's summary; None if there is none, or by another release."""
    try:
        found = json.loads((folder / f"{version}.json").read_text(encoding="utf-8"))
        return _parsed(found)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def read_summaries(versions: Iterable[str]) -> dict[str, Summary]:
    """These versions' summaries in the default folder."""
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
