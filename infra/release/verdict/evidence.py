"""The evidence about both versions, window by window, and its file format.

A window is the time since the last look: in it both arms met the same callers, the same hour and
the same outages, so only within windows are they compared.
"""

from typing import Annotated, Any, Self

import msgspec
from msgspec.structs import astuple


class EvidenceError(ValueError):
    """The evidence cannot be used; the message names the place and what was expected there."""


Count = Annotated[int, msgspec.Meta(ge=0)]


class Reports(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What Lambda's own lines say about one version's calls, the release manager's included.

    `settled` are calls of execution environments that had answered some before; `grew` of them left
    a higher peak of memory behind, by `grown_mb` together. `starts` counts cold starts by how long
    they took, in the buckets of `latency`; stable's of the day before are in the first window.
    """

    calls: Count = 0
    settled: Count = 0
    grew: Count = 0
    grown_mb: Count = 0
    peak: Annotated[float, msgspec.Meta(ge=0)] = 0.0  # the highest, as a share of the limit
    starts: tuple[Count, ...] = ()

    def __post_init__(self) -> None:
        """Raises EvidenceError on counts that contradict each other."""
        if not self.grew <= self.settled <= self.calls:
            raise EvidenceError(
                f"reports: expected grew <= settled <= calls, got {self.grew}, {self.settled}, "
                f"{self.calls}"
            )


class Arm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one version did in one window.

    `latency` counts answered requests in the buckets of `Evidence.latency_edges_s`, one more than
    edges: bucket i holds edges[i - 1] < latency <= edges[i], as OpenTelemetry and Prometheus count.
    `classes` counts predictions by class, `confidence` the same by confidence in bins of any
    width, the same in all windows; both are empty where the service does not report them.
    `lines` of the version's log were searched, and `secrets` counts by kind those that hold what
    no log may hold.
    """

    requests: Count = 0
    errors: Count = 0  # 5xx, timeouts, crashes
    latency: tuple[Count, ...] = ()
    classes: tuple[Count, ...] = ()
    confidence: tuple[Count, ...] = ()
    refusals: dict[str, Count] = {}  # 4xx by status: callers' mistakes, or what is taken for one
    reports: Reports = Reports()
    lines: Count = 0
    secrets: dict[str, Count] = {}

    def __post_init__(self) -> None:
        """Raises EvidenceError on counts that contradict each other."""
        for what, count in (
            ("errors and refusals", self.errors + sum(self.refusals.values())),
            ("latencies", sum(self.latency)),
        ):
            if count > self.requests:
                raise EvidenceError(f"{count} {what} of {self.requests} requests")


class Replay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Golden images that were sent through both versions in one window, each image once a release.

    Images must come in random order: the tests read them as a sample of what the versions could be
    asked, and a set replayed twice is no new evidence.
    """

    both_right: Count = 0
    only_stable_right: Count = 0
    only_candidate_right: Count = 0
    both_wrong_alike: Count = 0
    both_wrong_apart: Count = 0

    @property
    def images(self) -> int:
        """The number of all images."""
        return sum(astuple(self))


class Labelled(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answers of one version whose right class has become known in one window, from callers or
    from people; each had the same chance of being among them."""

    right: Count = 0
    wrong: Count = 0


class Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Both arms at the same time.

    `replay_stable` and `replay_candidate` are the calls that replayed the golden images: how they
    were answered, and how soon as the release manager saw it.
    """

    stable: Arm
    candidate: Arm
    golden: Replay = Replay()
    replay_stable: Arm = Arm()
    replay_candidate: Arm = Arm()
    labelled_stable: Labelled = Labelled()
    labelled_candidate: Labelled = Labelled()

    @classmethod
    def of(cls, document: Any) -> Self:
        """Inverse of `msgspec.to_builtins`."""
        return msgspec.convert(document, cls)


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A release so far; one window a look, in order.

    `labelled` says whether labelled answers are looked for, from the first window on: if so, their
    check is one of the release, and has its part of the false-alarm rate.
    """

    stable: str  # versions, for the words only
    candidate: str
    latency_edges_s: tuple[float, ...]
    windows: tuple[Window, ...] = ()
    labelled: bool = False

    def __post_init__(self) -> None:
        """Raises EvidenceError on counts that contradict each other."""
        edges = self.latency_edges_s
        if not edges or any(b <= a for a, b in zip((0.0, *edges), edges, strict=False)):
            raise EvidenceError("latency_edges_s: expected increasing numbers above 0")
        arms = [
            arm
            for window in self.windows
            for arm in (
                window.stable,
                window.candidate,
                window.replay_stable,
                window.replay_candidate,
            )
        ]
        for signal in ("latency", "classes", "confidence"):
            lengths = {len(getattr(arm, signal)) for arm in arms} - {0}
            if len(lengths) > 1:
                raise EvidenceError(f"{signal}: lengths differ between windows: {sorted(lengths)}")
            if signal == "latency" and lengths - {len(edges) + 1}:
                raise EvidenceError(
                    f"latency: expected {len(edges) + 1} counts, one more than edges, "
                    f"got {lengths.pop()}"
                )
        starts = {len(arm.reports.starts) for arm in arms} - {0, len(edges) + 1}
        if starts:
            raise EvidenceError(f"starts: expected {len(edges) + 1} counts, got {starts.pop()}")


def parse_evidence(text: str) -> Evidence:
    """Reads the JSON that `evidence_json` writes.

    Raises:
        EvidenceError: no JSON, a key too many or too few, or counts that contradict each other.
    """
    try:
        return msgspec.json.decode(text, type=Evidence)
    except msgspec.MsgspecError as exc:
        raise EvidenceError(str(exc)) from exc


def evidence_json(evidence: Evidence) -> str:
    """The evidence as one JSON document, which `parse_evidence` reads."""
    return msgspec.json.format(msgspec.json.encode(evidence), indent=1).decode() + "\n"
