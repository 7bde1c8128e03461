"""Captures a sample of a process's predictions, off the request path.

The event loop only samples and copies pixels. A thread encodes batches and writes each once it is
large or old enough. On failure batches wait in bounded memory, retried with backoff; what does not
fit is dropped and counted, and requests are not affected.
"""

import logging
import os
import random
import struct
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.captures import Capture, batch_key, encode_rows, sampling_probability
from common.objects import Store
from serve.capture.feedback import AnswerIndex
from serve.exchange import Exchange

logger = logging.getLogger(__name__)

ROWS, AGE_S = 500, 60.0  # of one batch
_BATCH_BYTES = 2 << 20  # of pixels
_MOST_BYTES = 4 << 20  # in memory: waiting pixels and encoded batches
_ROW_BYTES = 1_000  # overhead of a row beside its pixels, estimated
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 60.0  # backoff after a failed write
_END_S = 1.0  # until an idle thread ends
_SPREAD = 0.25  # random jitter of the backoff: many processes share the store

# Reasons why a sampled prediction was lost.
NO_ROOM, NOT_WRITTEN, FAILED = REASONS = ("no-room", "not-written", "failed")


class _Row(NamedTuple):
    request_id: str
    place: int
    time: float
    probabilities: list[float]
    probability: float
    pixels: NDArray[np.uint8]

    @property
    def key(self) -> tuple[str, int]:
        return self.request_id, self.place


class _Batch(NamedTuple):
    key: str
    data: bytes
    answers: list[tuple[str, int]]


class Counts(NamedTuple):
    """Predictions written to the store, predictions sampled but lost, and bytes in memory."""

    kept: int
    dropped: dict[str, int]  # by reason
    waiting_bytes: int


class Recorder:
    """An `Observer` that writes a sample of predictions to a store in batches.

    Args:
        open_store: called again in every copy of the process.
        share: sampling probability of a confident prediction.
        unsure: sampling probability of a tie between two classes.
        rows: size of a batch.
        age_s: age at which an incomplete batch is written.
        by_itself: whether the thread writes due batches; otherwise only `flush` and `flush_due` do,
            as after an invocation on AWS Lambda.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        model_version: str,
        share: float,
        unsure: float,
        rows: int = ROWS,
        age_s: float = AGE_S,
        by_itself: bool = True,
    ) -> None:
        self.open_store, self._model_version = open_store, model_version
        self._share, self._unsure, self._highest = share, unsure, max(share, unsure)
        self._batch_rows, self.age_s, self._by_itself = rows, age_s, by_itself
        self.index = AnswerIndex()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self.renew()

    def renew(self) -> None:
        """Starts empty under a new writer name, as a copy of the process must."""
        thread, self._thread = self._thread, None
        if thread is not None and thread.is_alive():  # a forked thread is not alive
            with self._changed:
                self._changed.notify_all()
            thread.join(_END_S)
        self._store = self.open_store()
        self._writer, self._number = os.urandom(8).hex(), 0
        self._changed = threading.Condition()  # the original's lock may have been held
        self._is_closed = self._is_asked = False
        self._staged: list[_Row] = []
        self._staged_bytes = self._bytes = 0
        self._staged_at = 0.0
        self._batches: deque[_Batch] = deque()
        self._waiting = 0  # predictions in memory
        # Their multiset; a caller may reuse a request id.
        self._unwritten: set[tuple[str, int]] = set()
        self._failures, self._retry_at = 0, 0.0
        self._has_failed = False
        self._kept, self._dropped = 0, Counter[str]()

    def __call__(self, exchange: Exchange, method: str, path: str) -> None:
        """Samples a request's images and copies their pixels; never raises."""
        if exchange.status != 200 or exchange.probabilities is None or exchange.is_internal:
            return
        try:
            for place in range(len(exchange.probabilities)):
                self._draw(exchange, place)
        except Exception:
            self._report_mistake()

    @property
    def counts(self) -> Counts:
        with self._changed:
            dropped = {reason: self._dropped[reason] for reason in REASONS}
            return Counts(self._kept, dropped, self._bytes)

    def holds(self, request_id: str, index: int) -> bool:
        """Whether the prediction is in this process's memory, yet to be written."""
        return (request_id, index) in self._unwritten

    def flush_due(self, deadline_s: float) -> bool:
        """Writes batches that are old or large enough; false if that fails within the timeout.

        Nothing is due during the backoff after a failure.
        """
        with self._changed:
            is_paused = self._failures > 0 and time.monotonic() < self._retry_at
            is_due = self._is_ripe() or bool(self._batches)
        return is_paused or not is_due or self.flush(deadline_s)

    def flush(self, deadline_s: float) -> bool:
        """Writes everything; false if that fails within the timeout."""
        with self._changed:
            if not self._waiting:
                return True
            self._is_asked = True
            self._start()
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_asked, max(0.0, deadline_s))
            return not self._waiting

    def close(self, deadline_s: float) -> None:
        """Writes the rest within the timeout; what remains is lost and counted."""
        self.flush(deadline_s)
        with self._changed:
            self._is_closed, self._thread = True, None
            self._lose(NOT_WRITTEN, self._waiting)
            self._changed.notify_all()

    # --- On the event loop -----------------------------------------------------------------------

    def _draw(self, exchange: Exchange, place: int) -> None:
        chance = random.random()
        if chance >= self._highest:
            return
        assert exchange.images is not None
        assert exchange.probabilities is not None
        probabilities: list[float] = exchange.probabilities[place].tolist()
        probability = sampling_probability(probabilities, self._share, self._unsure)
        if chance < probability:
            index = exchange.places[place] if exchange.places else place
            # A copy: a view would keep the whole batch in memory.
            pixels = exchange.images[place].copy()
            self._stage(
                _Row(exchange.request_id, index, time.time(), probabilities, probability, pixels)
            )

    def _stage(self, row: _Row) -> None:
        size = row.pixels.nbytes + _ROW_BYTES
        with self._changed:
            if self._is_closed or self._bytes + size > _MOST_BYTES:
                self._lose(NOT_WRITTEN if self._is_closed else NO_ROOM, 1)
                return
            if not self._staged:
                self._staged_at = time.monotonic()
            self._staged.append(row)
            self._staged_bytes += size
            self._bytes += size
            self._waiting += 1
            self._unwritten.add(row.key)
            if self._by_itself and (len(self._staged) == 1 or self._is_full()):
                self._start()
                self._changed.notify_all()

    def _start(self) -> None:
        is_there = self._thread is not None and self._thread.is_alive()
        if not (is_there or self._is_closed):
            self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
            self._thread.start()

    # --- In the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        me, changed = threading.current_thread(), self._changed
        while self._thread is me:  # replaced in a copy of the process, or closing
            with changed:
                if not self._has_work():
                    self._is_asked = False
                    changed.notify_all()
                    changed.wait(self._pause_s())
                    continue
                rows, size = self._taken()
            try:
                if rows:
                    self._encode(rows, size)
            except Exception:
                self._report_mistake()
                self._settle([row.key for row in rows], size, FAILED)
            if self._is_asked or time.monotonic() >= self._retry_at:
                self._write()

    def _is_full(self) -> bool:
        return len(self._staged) >= self._batch_rows or self._staged_bytes >= _BATCH_BYTES

    def _is_ripe(self) -> bool:
        is_old = time.monotonic() >= self._staged_at + self.age_s
        return bool(self._staged) and (self._is_full() or is_old)

    def _has_work(self) -> bool:
        if self._is_asked:
            return bool(self._staged or self._batches)
        can_write = bool(self._batches) and time.monotonic() >= self._retry_at
        return self._by_itself and (self._is_ripe() or can_write)

    def _pause_s(self) -> float | None:
        """Seconds until something is due; None if only a notification can make it so."""
        moments = [self._staged_at + self.age_s] if self._staged else []
        moments += [self._retry_at] if self._batches else []
        if not (moments and self._by_itself):
            return None
        return max(0.0, min(moments) - time.monotonic())

    def _taken(self) -> tuple[list[_Row], int]:
        if not (self._is_asked or self._is_ripe()):
            return [], 0
        rows, size = self._staged, self._staged_bytes
        self._staged, self._staged_bytes = [], 0
        return rows, size

    def _encode(self, rows: Sequence[_Row], size: int) -> None:
        data = encode_rows(
            Capture(
                row.request_id,
                row.place,
                row.time,
                self._model_version,
                tuple(row.probabilities),
                row.probability,
                png(row.pixels),
            )
            for row in rows
        )
        batch = _Batch(
            batch_key(self._writer, self._number, time.time()), data, [row.key for row in rows]
        )
        self._number += 1
        with self._changed:
            self._batches.append(batch)
            self._bytes += len(data) - size

    def _write(self) -> None:
        """Writes the batches in order, stopping at the first failure."""
        while self._batches:
            batch = self._batches[0]
            try:
                is_ours = self._store.create(batch.key, batch.data)
            except Exception as exc:
                self._put_off(exc)
                return
            if is_ours:
                # Before they are removed from what `holds` reads.
                self.index.add(batch.key, batch.answers)
            self._settle(batch.answers, len(batch.data), None if is_ours else FAILED, batch)
            if self._failures:
                self._failures = 0
                logger.info("captures are written again")

    def _put_off(self, exc: Exception) -> None:
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**self._failures)
        pause_s *= 1 + _SPREAD * random.uniform(-1, 1)
        if not self._failures:  # only the first of possibly hours of failures
            facts = {"reason": str(exc), "model_version": self._model_version}
            logger.warning("captures cannot be written; answers are not affected", extra=facts)
        with self._changed:
            self._failures = min(self._failures + 1, 30)
            self._retry_at = time.monotonic() + pause_s
            self._is_asked = False
            self._changed.notify_all()

    def _settle(
        self,
        answers: Sequence[tuple[str, int]],
        size: int,
        reason: str | None,
        batch: _Batch | None = None,
    ) -> None:
        with self._changed:
            if batch is not None:
                self._batches.popleft()
            self._bytes -= size
            self._waiting -= len(answers)
            self._unwritten.difference_update(answers)
            if reason is None:
                self._kept += len(answers)
            else:
                self._lose(reason, len(answers))

    def _lose(self, reason: str, answers: int) -> None:
        self._dropped[reason] += answers

    def _report_mistake(self) -> None:
        """Logged once: a bug would otherwise fill the log at the rate of requests."""
        if not self._has_failed:
            self._has_failed = True
            logger.exception("capture failed; requests are not affected")


_RGB, _DEPTH, _LEFT = 2, 8, 1  # PNG's colour type, bit depth, and filter "Sub"


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Encodes (H, W, 3) pixels as a PNG without ancillary chunks.

    A tenth of Pillow's time at 32x32 (10 of 110 us): filtered by the left neighbour and stored
    uncompressed, because the batch is compressed (W3C, Portable Network Graphics, 2025). Small
    images keep the GIL: getting it back from a busy event loop would cost more than all the rest.
    """
    height, width, channels = pixels.shape
    lines = np.empty((height, 1 + width * channels), np.uint8)
    lines[:, 0] = _LEFT
    flat = pixels.reshape(height, width * channels)
    lines[:, 1 : 1 + channels] = flat[:, :channels]
    np.subtract(flat[:, channels:], flat[:, :-channels], out=lines[:, 1 + channels :])
    header = struct.pack(">IIBBBBB", width, height, _DEPTH, _RGB, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", _stored(lines.tobytes())), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, part) for kind, part in chunks)


_MOST_STORED = 0xFFFF  # maximum size of a block


def _stored(data: bytes) -> bytes:
    """Data in zlib's format, uncompressed (RFC 1950, and RFC 1951, 3.2.4)."""
    starts = range(0, len(data), _MOST_STORED)
    blocks = [data[start : start + _MOST_STORED] for start in starts]
    packed = [
        struct.pack("<BHH", number == len(blocks), len(block), len(block) ^ 0xFFFF) + block
        for number, block in enumerate(blocks, 1)
    ]
    return b"\x78\x01" + b"".join(packed) + struct.pack(">I", zlib.adler32(data))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
