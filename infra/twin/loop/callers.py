"""Callers of the service: images at a steady rate, routed to versions by weights, and true labels
that some callers send later by POST /feedback."""

from __future__ import annotations

import base64
import http.client
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

from common.golden import read_golden_set
from infra.twin.load import turns
from infra.twin.loop.service import Running

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
        ending, order = threading.Event(), turns(self.rate)
        threads = [
            threading.Thread(target=self._call, args=(order, ending, number))
            for number in range(_CALLERS)
        ]
        threads.append(threading.Thread(target=self._tell, args=(ending,)))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ending.set()
            for thread in threads:
                thread.join()

    def _call(
        self, order: Iterator[tuple[int, float]], ending: threading.Event, number: int
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
