"""Labels that callers send for captured predictions, and the index that finds these.

The index holds the predictions in a store's newest batches in bounded memory: each is a 64-bit
keyed hash, which callers cannot predict, of eight bytes.
"""

import gzip
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.captures import CAPTURES, FEEDBACK, Captures, Label, hour_of
from common.objects import Damaged, Store, StoreError
from serve.errors import Contradiction, StoreUnavailable, UnknownAnswer
from serve.http.middleware import RELEASE_MANAGER
from serve.http.schemas import Feedback

HOURS = 24  # how far back to look
_MOST_ROWS, _MOST_BATCHES = 200_000, 5_000
_HOUR_S = 3600.0


class _Row(msgspec.Struct):
    request_id: str
    index: int


_decoder = msgspec.json.Decoder(_Row)


class AnswerIndex:
    """Predictions by batch; the oldest are evicted when it is full."""

    def __init__(self) -> None:
        self._batches: dict[str, NDArray[np.int64]] = {}
        self._rows = 0
        self._behind = ""  # batches up to this key were evicted
        self._looked_at = float("-inf")  # time.monotonic() of the last complete update
        self._complete = set[str]()  # hours that are complete
        self._changing = threading.Lock()

    def add(self, key: str, answers: Iterable[tuple[str, int]]) -> None:
        """Adds the predictions of a batch."""
        marks = np.fromiter((hash(answer) for answer in answers), np.int64)
        with self._changing:
            if key in self._batches or key <= self._behind:
                return
            self._batches[key] = marks
            self._rows += len(marks)
            while self._rows > _MOST_ROWS or len(self._batches) > _MOST_BATCHES:
                self._behind = oldest = min(self._batches)
                self._rows -= len(self._batches.pop(oldest))

    def has(self, request_id: str, index: int) -> bool:
        """Whether an indexed batch holds the prediction."""
        mark = hash((request_id, index))
        with self._changing:
            batches = list(self._batches.values())
        return any(bool((marks == mark).any()) for marks in batches)

    def find(
        self, store: Store, request_id: str, index: int, asked_at: float, budget_s: float
    ) -> bool:
        """Searches the store from the newest hour back until the budget ends, and indexes what it
        reads.

        Args:
            asked_at: time.monotonic(); an index updated since then is fresh enough.

        Raises:
            StoreError: the store cannot be read.
        """
        began, now = time.monotonic(), time.time()
        until = began + budget_s
        for back in range(HOURS):
            is_open = back < 2  # a batch is written at most minutes after its hour
            if not is_open and time.monotonic() > until:
                break
            hour = hour_of(now - back * _HOUR_S)
            if hour in self._complete or (is_open and asked_at < self._looked_at):
                continue
            if not self._read_hour(store, hour, until):
                break
            if not is_open:
                self._complete.add(hour)
            elif back == 1:
                self._looked_at = began
            if self.has(request_id, index):
                return True
        return self.has(request_id, index)

    def _read_hour(self, store: Store, hour: str, until: float) -> bool:
        """Indexes an hour; whether all its batches are now indexed or evicted."""
        keys = [one.key for one in store.entries(f"{CAPTURES}{hour}/")]
        self._forget_missing(f"{CAPTURES}{hour}/", keys)
        for key in reversed(keys):
            if key in self._batches or key <= self._behind:
                continue
            if time.monotonic() > until:
                return False
            try:
                self.add(key, _answers(store.read(key)))
            # Deleted meanwhile, or damaged, which readers of whole batches report.
            except (KeyError, Damaged):
                self.add(key, ())
        return True

    def _forget_missing(self, prefix: str, keys: Sequence[str]) -> None:
        there = set(keys)
        with self._changing:
            for key in [one for one in self._batches if one.startswith(prefix)]:
                if key not in there:
                    self._rows -= len(self._batches.pop(key))


def _answers(data: bytes) -> list[tuple[str, int]]:
    try:
        return [(row.request_id, row.index) for row in _decoder.decode_lines(gzip.decompress(data))]
    except (OSError, EOFError, ValueError, zlib.error) as exc:
        raise Damaged(str(exc)) from exc


_LOOK_S = 3.0  # time budget for finding a request in the store
_RETRY_S = "5"
_DIGITS = 12


class Memory(Protocol):
    """The predictions that this process captured: those not written yet, and an index of others."""

    age_s: float
    index: AnswerIndex

    def holds(self, request_id: str, index: int) -> bool: ...


class StoredAnswers:
    """`KeptAnswers` on a store that many processes write to. For one thread."""

    def __init__(self, recorder: Memory, open_store: Callable[[], Store]) -> None:
        self._recorder, self._open_store = recorder, open_store
        self._store: Store | None = None

    def say(self, feedback: Feedback, caller: str, asked_at: float) -> bool:
        """Implements `KeptAnswers.say`."""
        try:
            if self._store is None:
                self._store = self._open_store()
            if not self._is_kept(self._store, feedback, asked_at):
                raise self._unknown(feedback)
            return _say(Captures(self._store), feedback, labeller_of(caller))
        except StoreError as exc:
            raise StoreUnavailable(str(exc), headers={"retry-after": _RETRY_S}) from exc

    def renew(self) -> None:
        """Reopens the store, as a copy of the process must."""
        self._store = None

    def _is_kept(self, store: Store, feedback: Feedback, asked_at: float) -> bool:
        answer, recorder = (feedback.request_id, feedback.index), self._recorder
        # In this order, because a prediction moves from memory to the index.
        return (
            recorder.holds(*answer)
            or recorder.index.has(*answer)
            or recorder.index.find(store, *answer, asked_at, _LOOK_S)
        )

    def _unknown(self, feedback: Feedback) -> UnknownAnswer:
        age_s = f"{self._recorder.age_s:.0f}"
        return UnknownAnswer(
            f"prediction {feedback.index} of request {feedback.request_id} is not among those "
            f"captured in the last {HOURS} hours, a sample of all; one of the last {age_s} s may "
            "still be in the memory of another process: retry after Retry-After",
            field="request_id",
            headers={"retry-after": age_s},
        )


def labeller_of(caller: str) -> str:
    """A labeller name for each API key, which does not reveal the key."""
    return f"{FEEDBACK}-{caller[:_DIGITS]}" if caller else RELEASE_MANAGER


def _say(captures: Captures, feedback: Feedback, labeller: str) -> bool:
    label = Label(feedback.request_id, feedback.index, feedback.label, labeller, time.time())
    while True:
        said = [one for one in captures.said(*label.key) if one.labeller == labeller]
        if said:
            newest = max(said, key=lambda one: one.time)
            if newest.label == label.label:
                return False
            raise Contradiction(
                f"the same API key sent {newest.label} before; labels cannot be changed",
                field="label",
            )
        if captures.say(label):
            return True  # otherwise the same caller won the race by another request
