"""The evidence about both versions, window by window, and its file format.

A window is the time since the last look: in it both arms met the same callers, the same hour and
the same outages, so only within windows are they compared.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any


class EvidenceError(ValueError):
    """The evidence cannot be used; the message names the place and what was expected there."""


@dataclass(frozen=True)
class Arm:
    """What one version did in one window.

    `latency` counts answered requests in the buckets of `Evidence.latency_edges_s`, one more than
    edges: bucket i holds edges[i - 1] < latency <= edges[i], as OpenTelemetry and Prometheus count.
    `classes` counts answers by predicted class, `confidence` the same by confidence in bins of any
    width, the same in all windows; both are empty where the service does not tell.
    """

    requests: int = 0
    errors: int = 0  # 5xx, timeouts, crashes; what a caller did wrong is no error of the version
    latency: tuple[int, ...] = ()
    classes: tuple[int, ...] = ()
    confidence: tuple[int, ...] = ()


@dataclass(frozen=True)
class Replay:
    """Golden images that were sent through both versions in one window, each image once a release.

    Images must come in random order: the tests read them as a sample of what the versions could be
    asked, and a set replayed twice is no new evidence.
    """

    both_right: int = 0
    only_stable_right: int = 0
    only_canary_right: int = 0
    both_wrong_alike: int = 0
    both_wrong_apart: int = 0

    @property
    def images(self) -> int:
        """The number of all images."""
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Window:
    """Both arms at the same time."""

    stable: Arm
    canary: Arm
    golden: Replay = Replay()


@dataclass(frozen=True)
class Evidence:
    """A release so far; one window a look, in order."""

    stable: str  # versions, for the words only
    canary: str
    latency_edges_s: tuple[float, ...]
    windows: tuple[Window, ...] = ()

    def __post_init__(self) -> None:
        """Raises EvidenceError on counts that cannot be."""
        edges = self.latency_edges_s
        if not edges or any(b <= a for a, b in zip((0.0, *edges), edges, strict=False)):
            raise EvidenceError("latency_edges_s: expected increasing numbers above 0")
        for place, window in enumerate(self.windows):
            for name, arm in (("stable", window.stable), ("canary", window.canary)):
                _check_arm(f"windows[{place}].{name}", arm, len(edges) + 1)
            _whole(f"windows[{place}].golden", asdict(window.golden).values())
        for signal in ("classes", "confidence"):
            arms = [arm for window in self.windows for arm in (window.stable, window.canary)]
            lengths = {len(getattr(arm, signal)) for arm in arms} - {0}
            if len(lengths) > 1:
                raise EvidenceError(f"{signal}: lengths differ between windows: {sorted(lengths)}")


def parse_evidence(text: str) -> Evidence:
    """Reads the JSON that `evidence_json` writes.

    Raises:
        EvidenceError: no JSON, a key too many or too few, or counts that cannot be.
    """
    try:
        document = json.loads(text)
    except ValueError as exc:
        raise EvidenceError(f"no JSON: {exc}") from exc
    values = _keys("evidence", document, Evidence)
    windows = values.pop("windows", [])
    if not isinstance(windows, list):
        raise EvidenceError(f"windows: expected a list, got {type(windows).__name__}")
    edges = values.pop("latency_edges_s")
    if not isinstance(edges, list) or not all(isinstance(e, int | float) for e in edges):
        raise EvidenceError("latency_edges_s: expected a list of numbers")
    for name in ("stable", "canary"):
        if not isinstance(values[name], str):
            raise EvidenceError(f'{name}: expected the version as text, as in "12"')
    read = tuple(_window(f"windows[{place}]", item) for place, item in enumerate(windows))
    return Evidence(**values, latency_edges_s=tuple(map(float, edges)), windows=read)


def evidence_json(evidence: Evidence) -> str:
    """The evidence as one JSON document, which `parse_evidence` reads."""
    return json.dumps(asdict(evidence), indent=1) + "\n"


def _window(place: str, item: Any) -> Window:
    values = _keys(place, item, Window)
    arms = {}
    for name in ("stable", "canary"):
        arm = _keys(f"{place}.{name}", values[name], Arm)
        for key, value in arm.items():
            if isinstance(value, list):
                arm[key] = tuple(value)
        arms[name] = Arm(**arm)
    golden = Replay(**_keys(f"{place}.golden", values.get("golden", {}), Replay))
    return Window(**arms, golden=golden)


def _keys(place: str, item: Any, kind: type) -> dict[str, Any]:
    """A JSON object that has the fields of a dataclass, and no others."""
    if not isinstance(item, Mapping):
        raise EvidenceError(f"{place}: expected an object, got {type(item).__name__}")
    known = [field.name for field in fields(kind)]
    if unknown := sorted(set(item) - set(known)):
        raise EvidenceError(f"{place}: unknown {unknown[0]!r}; it has {', '.join(known)}")
    needed = {Evidence: ("stable", "canary", "latency_edges_s"), Window: ("stable", "canary")}
    for name in needed.get(kind, ()):
        if name not in item:
            raise EvidenceError(f"{place}: {name!r} is missing")
    return dict(item)


def _check_arm(place: str, arm: Arm, buckets: int) -> None:
    _whole(f"{place}.requests", [arm.requests])
    _whole(f"{place}.errors", [arm.errors])
    for name in ("latency", "classes", "confidence"):
        counts = getattr(arm, name)
        if not isinstance(counts, tuple):
            raise EvidenceError(f"{place}.{name}: expected a list of counts, got {counts!r}")
        _whole(f"{place}.{name}", counts)
    if arm.errors > arm.requests:
        raise EvidenceError(f"{place}: {arm.errors} errors of {arm.requests} requests")
    if arm.latency and len(arm.latency) != buckets:
        raise EvidenceError(
            f"{place}.latency: expected {buckets} counts, one more than edges, "
            f"got {len(arm.latency)}"
        )
    if sum(arm.latency) > arm.requests:
        raise EvidenceError(
            f"{place}.latency: {sum(arm.latency)} latencies of {arm.requests} requests"
        )


def _whole(place: str, counts: "Sequence[Any] | Any") -> None:
    for count in counts:
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise EvidenceError(f"{place}: expected whole numbers from 0 on, got {count!r}")
