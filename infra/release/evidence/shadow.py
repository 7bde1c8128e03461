"""Shadow traffic: copies of requests to two versions, whose answers are compared and dropped.

Nothing of it is in a caller's path. Requests come from a file or a stream that something else has
written (a sampler at the edge, a replayed log, the golden set), never from the function itself,
whose calls would wait for it. Each copy is left in Lambda's queue (InvocationType=Event) for a
version by its number, so that callers of the alias share nothing with it but the function's
reserved concurrency; the rate keeps that small. An asynchronous call's answer goes nowhere, but its
metrics go into the log, with the trace id that was sent along: class, confidence, time.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.release.aws.clients import Clock
from infra.release.aws.function import SHADOW, LambdaFunction, predict_event, trace_id
from infra.release.evidence.collector import CONFIDENCE, DURATION, PREDICTIONS, embedded

Lines = Callable[[tuple[float, float]], Iterable[tuple[str, str]]]  # of the log, within a window


@dataclass
class ShadowResponse:
    """The response of a version to one request; None where it is not in the log yet."""

    label: str | None = None
    confidence: float | None = None
    seconds: float | None = None
    failed: bool = False

    @property
    def is_known(self) -> bool:
        return self.failed or self.label is not None

    def take(self, line: Mapping[str, Any]) -> None:
        """Adds what a line of metrics says."""
        if DURATION in line:
            self.seconds = float(line[DURATION])
            self.failed = not str(line.get("http.response.status_code", "")).startswith("2")
        if PREDICTIONS in line:
            self.label = str(line.get("class"))
        if CONFIDENCE in line:
            self.confidence = float(line[CONFIDENCE])


@dataclass
class Pair:
    """One request as both versions answered it."""

    stable: ShadowResponse = field(default_factory=ShadowResponse)
    candidate: ShadowResponse = field(default_factory=ShadowResponse)

    @property
    def is_known(self) -> bool:
        return self.stable.is_known and self.candidate.is_known


@dataclass(frozen=True)
class Disagreement:
    """How two versions differ on the same requests.

    Attributes:
        sent, answered: requests; answered by both, well or badly.
        apart: requests to which both gave a class, not the same.
        pairs: how often which class became which, where they differ, the most frequent first.
        failed: of each version.
        confidence: mean, of each version.
        slowest: p99 of the time in seconds, of each version.
    """

    sent: int
    answered: int
    agreed: int
    apart: int
    pairs: tuple[tuple[str, str, int], ...]
    failed: tuple[int, int]
    confidence: tuple[float, float]
    slowest: tuple[float, float]

    @property
    def share(self) -> float:
        """The share among the requests that both versions classified."""
        return self.apart / max(1, self.apart + self.agreed)


def sampled(images: Iterable[bytes], share: float) -> Iterator[bytes]:
    """A share of the requests, chosen by a hash of their content, so the same in every run."""
    limit = round(share * 2**32)
    for image in images:
        if int.from_bytes(hashlib.sha256(image).digest()[:4], "big") < limit:
            yield image


def shadow(
    function: LambdaFunction,
    stable: str,
    candidate: str,
    images: Iterable[bytes],
    rate: float,
    lines: Lines,
    clock: Clock,
    wait_s: float,
    progress: Callable[[str], None],
) -> Disagreement:
    """Sends every image to both versions, `rate` a second, and reads what they answered.

    Args:
        wait_s: how long the last answers may take to be in the log.
    """
    began = clock.now()
    pairs: list[Pair] = []
    places: dict[str, ShadowResponse] = {}
    for image in images:
        pair = Pair()
        for version, answered in ((stable, pair.stable), (candidate, pair.candidate)):
            trace = trace_id(SHADOW)
            places[trace] = answered
            function.send(version, predict_event(image, trace))
        pairs.append(pair)
        progress(f"{len(pairs):,} requests sent")
        clock.sleep(max(0.0, began + len(pairs) / rate - clock.now()))
    deadline = clock.now() + wait_s
    while pairs:
        for _, message in lines((began, clock.now() + 1)):
            line = embedded(message)
            if line and (found := places.get(str(line.get("trace_id")))):
                found.take(line)
        known = sum(pair.is_known for pair in pairs)
        progress(f"{known:,} of {len(pairs):,} answered by both")
        if known == len(pairs) or clock.now() > deadline:
            break
        clock.sleep(min(2.0, wait_s / 5))
    return compare(pairs)


def compare(pairs: list[Pair]) -> Disagreement:
    """The report on all pairs."""
    known = [pair for pair in pairs if pair.is_known]
    both = [pair for pair in known if not (pair.stable.failed or pair.candidate.failed)]
    changes = Counter(
        (str(pair.stable.label), str(pair.candidate.label))
        for pair in both
        if pair.stable.label != pair.candidate.label
    )
    arms = [[pair.stable for pair in known], [pair.candidate for pair in known]]
    failed, confidence, slowest = (
        (measure(arms[0]), measure(arms[1])) for measure in (_failed, _confidence, _slowest)
    )
    return Disagreement(
        sent=len(pairs),
        answered=len(known),
        agreed=len(both) - changes.total(),
        apart=changes.total(),
        pairs=tuple((a, b, count) for (a, b), count in changes.most_common()),
        failed=(int(failed[0]), int(failed[1])),
        confidence=confidence,
        slowest=slowest,
    )


def _failed(answers: list[ShadowResponse]) -> float:
    return sum(answer.failed for answer in answers)


def _confidence(answers: list[ShadowResponse]) -> float:
    found = [answer.confidence for answer in answers if answer.confidence is not None]
    return sum(found) / max(1, len(found))


def _slowest(answers: list[ShadowResponse]) -> float:
    found = sorted(answer.seconds for answer in answers if answer.seconds is not None)
    return found[min(len(found) - 1, int(0.99 * len(found)))] if found else 0.0
