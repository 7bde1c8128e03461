"""Callers of the service, and a canary between two versions of it.

The callers send images at a steady rate, routed to versions by weights, and later some true labels
by POST /feedback. The canary is judged by the release's own verdict, from what the callers saw of
both versions, golden images and live labels.
"""

from __future__ import annotations

import base64
import http.client
import random
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue

from msgspec.structs import replace

from common.golden import read_golden_set
from common.programs import in_threads
from infra.release.evidence.accuracy import LabelReader, since
from infra.release.evidence.collector import Buckets, VersionCounts, read_buckets, secrets_in
from infra.release.verdict.engine import Verdict, judge
from infra.release.verdict.evidence import Arm, Evidence, Labelled, Replay, Window
from infra.release.verdict.policy import profile_policy
from infra.twin.load import turns
from infra.twin.loop.programs import Running, answers

_CALLERS = 4
_MOST_WAITING = 20  # labels; where the service is slow to take them, later answers go without


@dataclass(frozen=True)
class Shot:
    """An image that is sent, in base64, and its class."""

    data: str
    label: str


@dataclass(frozen=True)
class LabelledResponse:
    """One request as its caller saw it, with the true class."""

    time_s: float  # since 1970, of its end
    model: str
    status: int  # 0: the connection broke
    seconds: float
    label: str
    confidence: float
    right: bool
    request_id: str


def read_stream(path: Path) -> list[Shot]:
    """The images of a golden set, in their order."""
    images = read_golden_set(path).images
    return [Shot(base64.b64encode(image.data).decode(), image.label) for image in images]


@dataclass
class Callers:
    """The callers; their attributes may be changed at any time.

    Attributes:
        weights: each service with its share of the requests.
        stream: the images, by turns.
        truthful: the share of answers whose truth is sent by POST /feedback.
        labels_taken: the number of labels that the service has accepted.
    """

    rate: float
    seed: int
    weights: dict[str, tuple[Running, float]] = field(default_factory=dict)
    stream: Sequence[Shot] = ()
    truthful: float = 0.0
    answers: list[LabelledResponse] = field(default_factory=list)
    labels_taken: int = 0
    _place: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _feedback: SimpleQueue[tuple[Running, str, str]] = field(default_factory=SimpleQueue)

    def show(self, stream: Sequence[Shot]) -> None:
        """Sends these images from now on, from the first."""
        with self._lock:
            self.stream, self._place = stream, 0

    def route(self, *shares: tuple[Running, float]) -> None:
        """Shares the requests from now on."""
        self.weights = {running.model: (running, share) for running, share in shares}

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Calls for as long as the block runs."""
        order = turns(self.rate)
        callers = (partial(self._call, order, number) for number in range(_CALLERS))
        with in_threads(*callers, self._tell):
            yield

    def _call(
        self, order: Iterator[tuple[int, float]], number: int, ending: threading.Event
    ) -> None:
        luck = random.Random(f"{self.seed} {number}")
        connections: dict[str, http.client.HTTPConnection] = {}
        while not ending.is_set():
            with self._lock:
                _, moment = next(order)
                shot = self.stream[self._place % len(self.stream)]
                self._place += 1
            if ending.wait(max(0.0, moment - time.monotonic())):
                break
            choices = list(self.weights.values())
            ((running, _),) = luck.choices(choices, [share for _, share in choices])
            connection = connections.setdefault(
                running.address, http.client.HTTPConnection(running.address, timeout=30)
            )
            answer = _ask(running, connection, shot)
            self.answers.append(answer)
            sends_label = luck.random() < self.truthful and self._feedback.qsize() < _MOST_WAITING
            if answer.status == 200 and sends_label:
                self._feedback.put((running, answer.request_id, shot.label))
            elif answer.status == 0:
                connection.close()

    def _tell(self, ending: threading.Event) -> None:
        while not ending.is_set():
            try:
                running, request_id, label = self._feedback.get(timeout=0.1)
            except Empty:
                continue
            with suppress(OSError, http.client.HTTPException):
                document = {"request_id": request_id, "label": label, "index": 0}
                status, _ = running.ask("POST", "/feedback", document)
                self.labels_taken += status in (200, 201)


def _ask(running: Running, connection: http.client.HTTPConnection, shot: Shot) -> LabelledResponse:
    begun = time.monotonic()
    status, label, confidence, request_id = 0, "", 0.0, ""
    with suppress(OSError, http.client.HTTPException, ValueError, KeyError):
        status, document = running.ask("POST", "/predict", {"image": shot.data}, connection)
        if status == 200:
            label, request_id = str(document["label"]), str(document["request_id"])
            confidence = float(document["probability"])
    took = time.monotonic() - begun
    right = label == shot.label
    return LabelledResponse(
        time.time(), running.model, status, took, label, confidence, right, request_id
    )


# A model that was made for what has changed answers otherwise on purpose, so how much only informs.
# Memory and cold starts are what Lambda tells of.
_INFORMING = ("disagreement", "class mix", "confidence")
_REQUIRED = ("errors", "refusals", "latency", "accuracy", "log content", "labels")
POLICY = profile_policy(
    "retrained",
    {
        "required": _REQUIRED,
        "informing": _INFORMING,
        "missed_harm_rate": 0.01,
        "harmful_error_excess": 0.01,
        "harmful_latency_ratio": 4.0,  # two cores do all of this at once
    },
)
_WEIGHTS, _LOOK_S, _STEP_S, _MOST_S, _GOLDEN = (0.2, 0.5), 5.0, 10.0, 120.0, 500


@dataclass
class Canary:
    """A candidate beside stable; the traffic is back with stable unless it is promoted."""

    stable: Running
    candidate: Running
    golden: Sequence[Shot]
    captures: Path
    say: Callable[[str], object]
    buckets: Buckets = field(default_factory=read_buckets)
    windows: list[Window] = field(default_factory=list)

    def run(self, callers: Callers) -> Verdict:
        """Shifts traffic until there is a verdict, and to whom it then belongs."""
        began = seen = time.time()
        lines = 0
        while True:
            weight = _WEIGHTS[min(int((time.time() - began) / _STEP_S), len(_WEIGHTS) - 1)]
            callers.route((self.stable, 1 - weight), (self.candidate, weight))
            time.sleep(_LOOK_S)
            until = time.time()
            answered = [one for one in list(callers.answers) if seen <= one.time_s < until]
            searched = self.candidate.lines[lines:]
            lines += len(searched)
            self._look(answered, searched, began, until)
            seen = until
            verdict = self._verdict()
            asked = sum(window.candidate.requests for window in self.windows)
            self.say(f"look {len(self.windows)}: {asked:,} requests so far, {verdict.decision}")
            if verdict.decision == "roll back" or until - began > _MOST_S:
                callers.route((self.stable, 1.0))
                return verdict
            if verdict.decision == "promote" and until - began > _STEP_S * len(_WEIGHTS):
                callers.route((self.candidate, 1.0))
                return verdict

    @property
    def labelled(self) -> tuple[Labelled, Labelled]:
        """All labels of the release, of stable's answers and of the candidate's."""
        stable, candidate = (
            Labelled(sum(one.right for one in arm), sum(one.wrong for one in arm))
            for arm in self._labels()
        )
        return stable, candidate

    def _labels(self) -> tuple[list[Labelled], list[Labelled]]:
        """The labels of each window: those of stable and those of the candidate."""
        return (
            [window.labelled_stable for window in self.windows],
            [window.labelled_candidate for window in self.windows],
        )

    def _verdict(self) -> Verdict:
        names = self.stable.model[:12], self.candidate.model[:12]
        windows = tuple(self.windows)
        return judge(Evidence(*names, self.buckets.latency_s, windows, labelled=True), POLICY)

    def _look(
        self, answered: Sequence[LabelledResponse], lines: Sequence[str], began: float, until: float
    ) -> None:
        arms = [self._arm(answered, running) for running in (self.stable, self.candidate)]
        found, secrets = secrets_in(lines)
        arms[1] = replace(arms[1], lines=found + 1, secrets=dict(secrets))
        reader = LabelReader(str(self.captures), 1.0)
        classes = {one.model: one.classes for one in (self.stable, self.candidate)}
        totals = reader.totals(classes, began, until)
        stable, candidate = self._labels()
        self.windows.append(
            Window(
                arms[0],
                arms[1],
                self._replay(),
                labelled_stable=since(totals[self.stable.model], stable),
                labelled_candidate=since(totals[self.candidate.model], candidate),
            )
        )

    def _arm(self, answered: Sequence[LabelledResponse], running: Running) -> Arm:
        counts = VersionCounts(self.buckets)
        for one in answered:
            if one.model == running.model:
                counts.answered(str(one.status or 500), one.seconds)
                if one.status == 200:
                    counts.classes[one.label] += 1
                    counts.confidence[bisect_left(self.buckets.confidence, one.confidence)] += 1
        return counts.arm(0, self.stable.classes)

    def _replay(self) -> Replay:
        start = sum(window.golden.images for window in self.windows)
        part = self.golden[start : start + _GOLDEN]
        images = [shot.data for shot in part]
        mine, new = answers(self.stable, images), answers(self.candidate, images)
        kinds = [0] * 5
        for shot, a, b in zip(part, mine, new, strict=True):
            right = (a == shot.label, b == shot.label)
            kind = {(True, True): 0, (True, False): 1, (False, True): 2}.get(right)
            kinds[(3 if a == b else 4) if kind is None else kind] += 1
        return Replay(*kinds)
