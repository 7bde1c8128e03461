"""Replays golden images through both versions by direct calls, and scores the answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from common.golden import GoldenImage
from infra.release.aws.function import CallFailed, LambdaFunction, Throttled, predict_event
from infra.release.verdict.evidence import Replay

_NO_ANSWER = ""  # of a version that crashed or refused: wrong

Pair = tuple[str, str] | Literal["late", "throttled"]  # labels of stable and candidate


@dataclass(frozen=True)
class Replayed:
    """What became of some images.

    Attributes:
        used: images of the order that are spent, those that found no room included.
    """

    replay: Replay
    used: int


def replay(
    function: LambdaFunction,
    stable: str,
    candidate: str,
    images: Sequence[GoldenImage],
    concurrency: int,
    budget_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> Replayed:
    """Asks both versions about every image, in order, until the time is over."""
    deadline = clock() + budget_s

    def both(image: GoldenImage) -> Pair:
        if clock() > deadline:
            return "late"
        try:
            return _label(function, stable, image), _label(function, candidate, image)
        except Throttled:
            return "throttled"

    with ThreadPoolExecutor(max(1, concurrency)) as pool:
        pairs = list(pool.map(both, images))
    # An image behind the first one that was not asked comes with the next look.
    used = pairs.index("late") if "late" in pairs else len(pairs)
    return _count(images[:used], pairs[:used])


def _label(function: LambdaFunction, version: str, image: GoldenImage) -> str:
    try:
        answer = function.ask(version, predict_event(image.data))
    except Throttled:
        raise
    except CallFailed:
        return _NO_ANSWER
    if answer.status != 200 or not isinstance(answer.document, dict):
        return _NO_ANSWER
    return str(answer.document.get("label", _NO_ANSWER))


def _count(images: Sequence[GoldenImage], pairs: Sequence[Pair]) -> Replayed:
    both = only_stable = only_candidate = alike = apart = 0
    for image, pair in zip(images, pairs, strict=True):
        if isinstance(pair, str):
            continue
        theirs, mine = pair
        if theirs == image.label == mine:
            both += 1
        elif theirs == image.label:
            only_stable += 1
        elif mine == image.label:
            only_candidate += 1
        elif theirs == mine:
            alike += 1
        else:
            apart += 1
    found = Replay(both, only_stable, only_candidate, alike, apart)
    return Replayed(found, len(images))
