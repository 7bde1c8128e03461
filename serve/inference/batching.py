"""Dynamic batching with a bounded queue.

The session runs on the event loop's thread, once for all images that became readable in one
iteration of the loop; while it runs, the next ones gather in the sockets. This needs no timer, so a
lone request never waits, and no hand-over between threads, which can cost as much as a small model.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serve.errors import Overloaded

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
