"""Compares runs: what is known of each, selection, order, and the differences between them.

Reads only the run folders, which is fast: no network or dataset is opened.
"""

import difflib
import fnmatch
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from ml.runs.folder import RunFolder, best_row, direction, read_rows
from ml.runs.provenance import read_provenance

_TRIALS, _FOLDS = "trials", "folds"  # folders of sweep trials and cross-validation folds
_VALUES = "values.json"  # of a trial trained to its end
_OUTCOMES = "trials.json"  # of a sweep: each trial's outcome
_ORIGIN = ("git_revision", "changes_digest", "lock_digest", "dataset_digest", "device", "python")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    ">=": lambda have, want: have >= want,
    "<=": lambda have, want: have <= want,
    ">": lambda have, want: have > want,
    "<": lambda have, want: have < want,
}
_CONDITION = re.compile(r"\s*([^<>=!\s]+)\s*(>=|<=|!=|==?|>|<)\s*(.*?)\s*", re.DOTALL)


class ComparisonError(ValueError):
    """The request cannot be fulfilled; the message says what to do."""


@dataclass(frozen=True)
class Record:
    """The content of a run folder.

    Attributes:
        kind: ``run``, ``trial`` of a sweep or ``fold`` of a cross-validation.
        state: ``finished``, ``running``, ``stopped`` (killed or interrupted: can be continued),
            ``pruned`` or ``failed`` for a trial, ``damaged`` if a file cannot be read.
        started: in UTC, None if not recorded.
        config: resolved values by dotted key.
        metrics: numbers by name: from the summary, ``test/accuracy``, and from the best epoch.
        origin: commit, digests, device.
        rows: the metrics of each epoch.
        problem: why it is damaged.
    """

    path: Path
    kind: str
    state: str
    started: datetime | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[Mapping[str, float]] = ()
    problem: str = ""

    @property
    def label(self) -> str:
        """Its folder's name, with parent folders for a trial or fold."""
        parts = self.path.parts[-1:] if self.kind == "run" else self.path.parts[-3:]
        return "/".join(parts)

    @property
    def epochs(self) -> str:
        """``3/11``: epochs trained, and planned."""
        of = self.config.get("trainer.max_epochs")
        return f"{len(self.rows)}/{of}" if of else str(len(self.rows))

    @property
    def monitored(self) -> str:
        """The metric that selected its best epoch."""
        return str(self.config.get("monitor", "val/accuracy"))

    def value(self, key: str) -> Any:
        """A metric, configuration value or fact by name; None if it has none."""
        facts = {"folder": self.path.name, "state": self.state, "kind": self.kind}
        named = (self.metrics, self.config, self.origin, facts | {"epochs": len(self.rows)})
        return next((known[key] for known in named if key in known), None)

    def text(self, key: str) -> str:
        """The value as shown in tables."""
        return shown_score(self.metrics.get(key)) if "/" in key else shown(self.value(key))

    def names(self) -> set[str]:
        """All names that `value` accepts."""
        return {*self.metrics, *self.config, *self.origin, "folder", "state", "kind", "epochs"}


def find_runs(places: Sequence[Path]) -> list[Path]:
    """Run folders at or below these paths, sorted by path.

    Raises:
        ComparisonError: a path does not exist.
    """
    for place in places:
        if not place.is_dir():
            raise ComparisonError(f"there is no folder {place}")
    return sorted({path for place in places for path in _below(place)})


def _below(place: Path) -> Iterator[Path]:
    for folder, inside, files in os.walk(place):
        if "config.yaml" in files:
            yield Path(folder)
            inside.clear()  # folders inside a run are not runs


def read_record(path: Path) -> Record:
    """Reads a run folder; an unreadable file makes it damaged and is not an error."""
    run = RunFolder(path)
    above = path.parent.name
    kind = {_TRIALS: "trial", _FOLDS: "fold"}.get(above, "run")
    try:
        config = dict(_flat(yaml.load(run.config.read_bytes(), _LOADER), "."))  # noqa: S506 # safe
        summary = _json(run.summary)
        rows = read_rows(run.metrics)
        known = read_provenance(run)
        return Record(
            path,
            kind,
            _state(run, kind, summary),
            _moment(known.get("started")),
            config,
            _numbers(rows, config, summary),
            _origin(known),
            rows,
        )
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as exc:
        return Record(path, kind, "damaged", problem=f"{type(exc).__name__}: {exc}")


def _state(run: RunFolder, kind: str, summary: Mapping[str, Any]) -> str:
    if summary or (kind == "trial" and (run.path / _VALUES).is_file()):
        return "finished"
    if run.is_busy():
        return "running"
    if kind == "trial":
        return _outcomes(run.path.parents[1] / _OUTCOMES).get(run.path.name, "stopped")
    return "stopped"


@cache
def _outcomes(path: Path) -> dict[str, str]:
    """``pruned`` and ``failed`` trials by folder."""
    trials = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    ended = [trial for trial in trials if trial["state"] in ("pruned", "failed")]
    return {f"{trial['trial']:04}": trial["state"] for trial in ended}


def _origin(known: Mapping[str, Any]) -> dict[str, str]:
    facts = {key: str(known[key]) for key in _ORIGIN if known.get(key)}
    return facts | {f"own_code.{name}": key for name, key in known.get("own_code", {}).items()}


def _numbers(
    rows: Sequence[Mapping[str, float]], config: Mapping[str, Any], summary: Mapping[str, Any]
) -> dict[str, float]:
    numbers: dict[str, float] = {}
    monitor = str(config.get("monitor"))
    if rows and monitor in rows[0]:
        mode = config.get("callbacks.checkpoint.mode") or direction(monitor, "max")
        how = {"monitor": monitor, "callbacks": {"checkpoint": {"mode": mode}}}
        best = best_row(rows, OmegaConf.create(how))
        numbers |= {key: value for key, value in best.items() if "/" in key}
        numbers |= {"best_epoch": best["epoch"], "training_s": rows[-1].get("elapsed_s", math.nan)}
    scalars = {key: value for key, value in _flat(summary, "/") if _is_number(value)}
    return numbers | {key: scalars[key] for key in scalars if key not in {"epochs", *config}}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _flat(value: Any, separator: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict) or (prefix and not value):
        yield prefix, value
        return
    for key, inner in value.items():
        yield from _flat(inner, separator, f"{prefix}{separator}{key}" if prefix else str(key))


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text).astimezone(UTC) if text else None


# --- Which, in which order, and what differs -----------------------------------------------------


def where(records: Sequence[Record], condition: str) -> list[Record]:
    """Runs that meet a condition: ``test/accuracy>0.9``, ``network.widths=[16,64,64]``,
    ``folder=*smoke*``. Runs without the value are left out.

    Raises:
        ComparisonError: the condition is malformed, or no run has the name.
    """
    match = _CONDITION.fullmatch(condition)
    if not match:
        raise ComparisonError(
            f"--where {condition}: expected NAME=VALUE, with =, !=, <, <=, > or >= between them"
        )
    key, sign, text = match.groups()
    check_name(records, key)
    want = _parsed(text)
    if sign in _COMPARED and not _is_number(want):
        raise ComparisonError(f"--where {condition}: {sign} compares numbers, {text!r} is none")

    def holds(record: Record) -> bool:
        have = record.value(key)
        if have is None and want is not None:
            return False
        if sign in _COMPARED:
            return _is_number(have) and _COMPARED[sign](have, want)
        return _equal(have, want, text) == (sign != "!=")

    return [record for record in records if holds(record)]


def _parsed(text: str) -> Any:
    """Parsed as YAML, plus numbers such as 1e-4, which YAML takes for strings."""
    try:
        return float(text) if "e" in text.lower() else yaml.load(text, _LOADER)  # noqa: S506 # safe
    except ValueError:
        try:
            return yaml.load(text, _LOADER)  # noqa: S506 # safe
        except yaml.YAMLError:
            return text
    except yaml.YAMLError:
        return text


def _equal(have: Any, want: Any, text: str) -> bool:
    if isinstance(have, str):
        return fnmatch.fnmatchcase(have, text)
    return bool(have == want) and isinstance(have, bool) == isinstance(want, bool)


def ordered(records: Sequence[Record], key: str) -> list[Record]:
    """Sorted best first by a metric with a known direction, else ascending; runs without the value
    last.

    Raises:
        ComparisonError: no run has the name.
    """
    check_name(records, key)
    sign = -1 if direction(key) == "max" else 1

    def rank(record: Record) -> tuple[int, float, str]:
        value = record.value(key)
        if _is_number(value) and not math.isnan(value):
            return 0, sign * value, ""
        return (2, 0.0, "") if value is None else (1, 0.0, str(value))

    return sorted(records, key=rank)


def newest_first(records: Sequence[Record]) -> list[Record]:
    """Sorted by start time, newest first; those without one last."""
    long_ago = datetime.min.replace(tzinfo=UTC)
    return sorted(records, key=lambda record: record.started or long_ago, reverse=True)


def check_name(records: Sequence[Record], key: str) -> None:
    """Rejects a name that no run has.

    Raises:
        ComparisonError: suggests the closest names.
    """
    names = set().union(*(record.names() for record in records))
    if key not in names and records:
        near = difflib.get_close_matches(key, names, 3, 0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else "; --names lists all"
        raise ComparisonError(f"no run has {key}{hint}")


def changed(records: Sequence[Record]) -> dict[str, list[Any]]:
    """Values of the configuration and origin that differ between runs, by name: one per run, None
    where it has none.
    """
    names: dict[str, None] = {}
    for record in records:
        names |= dict.fromkeys([*record.config, *record.origin])
    values = {name: [record.value(name) for record in records] for name in names}
    return {
        name: found
        for name, found in values.items()
        if any(one != found[0] for one in found) and name != "preset.accuracy"
    }


def shown_score(value: float | None) -> str:
    """A metric with four decimals."""
    return "–" if value is None else f"{value:.4f}"


def shown(value: Any) -> str:
    """A value for display: digests shortened, lists as typed."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return json.dumps(value, separators=(",", ":"))
    text = str(value)
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28,}", r"\1", text)
