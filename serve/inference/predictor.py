"""The model in memory, RGB pixels in, class probabilities out; and the bounded queue before it.

The session runs on the event loop's thread, once for all images that became readable in one
iteration of the loop; while it runs, the next ones gather in the sockets. This needs no timer, so a
lone request never waits, and no hand-over between threads, which can cost as much as a small model.
"""

import asyncio
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.model.artifact import (
    CHANNELS,
    INPUT,
    PROBABILITIES,
    ArtifactError,
    ArtifactMetadata,
    read_artifact,
)
from serve.errors import Overloaded
from serve.inference.signed import read_bytes

# Before the import: released wheels otherwise send telemetry to the vendor, see
# https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

__all__ = ["ArtifactError", "Batcher", "Inference", "Predictor", "fastest", "ort"]
logger = logging.getLogger(__name__)
# Larger batches' activations do not fit a core's cache: 100 images at once ran at 0.65 of the speed
# of 16.
_RUN = 16


class Predictor:
    """A verified model artifact and its session."""

    def __init__(self, artifact: bytes, threads: int = 1) -> None:
        """Verifies the bytes, then opens a session on `threads` threads.

        Raises:
            ArtifactError: the artifact is damaged, foreign, or one that onnxruntime cannot run.
        """
        self.metadata: ArtifactMetadata = read_artifact(artifact)
        self._session = _session(artifact, threads)

    @classmethod
    def load(cls, path: Path, threads: int = 1, key: str = "") -> "Predictor":
        """A warm predictor for the artifact at `path`, checked against its parity vector.

        Args:
            key: as KILN_MODEL_KEY: the public key that must verify the file's signature.

        Raises:
            ArtifactError: names the file and why it cannot be served.
        """
        try:
            predictor = cls(read_bytes(path, key), threads)
            predictor.check()
        except OSError as exc:
            raise ArtifactError(f"cannot read the model {path}: {exc.strerror}") from exc
        except ArtifactError as exc:
            raise ArtifactError(f"cannot serve {path}: {exc}") from exc
        return predictor

    @property
    def version(self) -> str:
        """Digest of graph and weights, 64 hexadecimal digits."""
        return self.metadata.version

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, K) probabilities of (N, H, W, 3) RGB images."""
        if len(images) <= _RUN:
            return self._run(images)
        parts = [self._run(images[start : start + _RUN]) for start in range(0, len(images), _RUN)]
        return np.concatenate(parts)

    def check(self) -> None:
        """Runs the artifact's parity images, which also warms the session.

        Raises:
            ArtifactError: the probabilities differ from those recorded at export.
        """
        parity = self.metadata.parity
        shape = (-1, *self.metadata.input_size, len(CHANNELS))
        expected = np.array(parity.probabilities)
        try:
            answers = self(np.frombuffer(parity.images, np.uint8).reshape(shape))
        except Exception as exc:  # onnxruntime's exceptions share no base class
            raise ArtifactError(f"onnxruntime cannot run the model: {exc}") from exc
        if np.shape(answers) != expected.shape:
            raise ArtifactError(
                f"the session answers {np.shape(answers)} numbers, expected {expected.shape}: "
                "a probability of each class for each of the artifact's own images"
            )
        difference = float(np.abs(answers - expected).max())
        if not difference <= parity.tolerance:  # this form also rejects NaN
            raise ArtifactError(
                f"the session's answers to the artifact's own images are {difference:.2g} away "
                f"from the recorded ones, expected at most {parity.tolerance:.2g}"
            )

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        answers: NDArray[np.float32] = self._session.run([PROBABILITIES], {INPUT: images})[0]
        return answers


_ROUNDS = 10  # interleaved, minimum of each: other load slows all alike


def fastest(paths: Sequence[Path], threads: int = 1) -> Path:
    """The artifact that runs its parity images in the least time.

    Raises:
        ArtifactError: names the file that cannot be served.
    """
    predictors = [Predictor.load(path, threads) for path in paths]
    best = [float("inf")] * len(paths)
    for _ in range(_ROUNDS):
        for place, predictor in enumerate(predictors):
            start = time.perf_counter()
            predictor.check()
            best[place] = min(best[place], time.perf_counter() - start)
    chosen = paths[best.index(min(best))]
    took = {path.name: round(seconds * 1e3, 3) for path, seconds in zip(paths, best, strict=True)}
    logger.info("chose the fastest model", extra={"chosen": chosen.name, "took_ms": took})
    return chosen


def _session(artifact: bytes, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads would take CPU time from the rest of the service.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime's exceptions share no base class
        raise ArtifactError(f"onnxruntime cannot open the model: {exc}") from exc


Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

_SMOOTHING = 0.1  # moving average of the time per image


class Inference(NamedTuple):
    """(n, K) probabilities, queue and run times, and the batch size."""

    probabilities: NDArray[np.float32]
    queue_s: float
    infer_s: float  # of the whole batch
    batch: int  # batch size


class _Waiting(NamedTuple):
    images: NDArray[np.uint8]
    future: "asyncio.Future[Inference]"
    since: float
    until: float


class Batcher:
    """Runs `predict` on batches of images from concurrent requests, at most `max_batch` at a
    time.
    """

    def __init__(self, predict: Predict, max_batch: int, max_queue: int, deadline_s: float) -> None:
        self._predict = predict
        self._max_batch, self._max_queue, self._deadline_s = max_batch, max_queue, deadline_s
        self._waiting: deque[_Waiting] = deque()
        self._scheduled = False
        self._seconds_per_image = 0.0
        self.admitted = 0  # images admitted and not answered yet

    def check_room(self, images: int = 1) -> None:
        """Passes if `images` images could be admitted now.

        Raises:
            Overloaded: the queue is full, or the expected wait exceeds the deadline.
        """
        wait = self.admitted * self._seconds_per_image
        if self.admitted and (self.admitted + images > self._max_queue or wait > self._deadline_s):
            raise self._overloaded(f"{self.admitted} images are waiting")

    @contextmanager
    def admission(self, images: int) -> Iterator[None]:
        """Holds places in the queue for `images` images, from arrival to response.

        Raises:
            Overloaded: the queue is full, or the expected wait exceeds the deadline.
        """
        self.check_room(images)
        self.admitted += images
        try:
            yield
        finally:
            self.admitted -= images

    async def __call__(self, images: NDArray[np.uint8]) -> Inference:
        """Results for (n, H, W, 3) images, in order.

        Raises:
            Overloaded: the deadline passed while they were queued.
        """
        if len(images) <= self._max_batch:
            return await self._submit(images)
        starts = range(0, len(images), self._max_batch)
        parts = [self._submit(images[start : start + self._max_batch]) for start in starts]
        answers = await asyncio.gather(*parts)
        return Inference(
            np.concatenate([answer.probabilities for answer in answers]),
            max(answer.queue_s for answer in answers),
            sum(answer.infer_s for answer in answers),
            len(images),
        )

    def _submit(self, images: NDArray[np.uint8]) -> "asyncio.Future[Inference]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Inference] = loop.create_future()
        now = time.monotonic()
        self._waiting.append(_Waiting(images, future, now, now + self._deadline_s))
        self._schedule(loop)
        return future

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._waiting and not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Runs one batch; the rest waits for the loop's next iteration, after it has served its
        sockets.
        """
        self._scheduled = False
        if group := self._next_group():
            try:
                self._run(group)
            except Exception as exc:
                for waiting in group:
                    waiting.future.set_exception(exc)
        self._schedule(loop)

    def _next_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        size, now = 0, time.monotonic()
        while self._waiting and size + len(self._waiting[0].images) <= self._max_batch:
            waiting = self._waiting.popleft()
            if waiting.future.done():  # its request was cancelled
                continue
            if now > waiting.until:
                waited = f"the images waited for {now - waiting.since:.1f} s"
                waiting.future.set_exception(self._overloaded(waited))
                continue
            group.append(waiting)
            size += len(waiting.images)
        return group

    def _run(self, group: list[_Waiting]) -> None:
        images = (
            group[0].images if len(group) == 1 else np.concatenate([one.images for one in group])
        )
        start = time.monotonic()
        probabilities = self._predict(images)
        infer_s = time.monotonic() - start
        self._learn(infer_s / len(images))
        position = 0
        for waiting in group:
            end = position + len(waiting.images)
            rows = probabilities[position:end]
            waiting.future.set_result(Inference(rows, start - waiting.since, infer_s, len(images)))
            position = end

    def _learn(self, seconds: float) -> None:
        known = self._seconds_per_image or seconds
        self._seconds_per_image = known + _SMOOTHING * (seconds - known)

    def _overloaded(self, reason: str) -> Overloaded:
        seconds = max(1, math.ceil(self.admitted * self._seconds_per_image))
        return Overloaded(
            f"{reason}: try again after {seconds} s", headers={"retry-after": str(seconds)}
        )
