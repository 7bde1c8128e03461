"""Accuracy of both versions: on golden images, and on callers' answers that have been labelled."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import local
from typing import Literal

from common.captures import CapturedAnswer, Captures, hash_uniform
from common.golden import GoldenImage
from common.objects import StoreError
from common.stores import open_store
from infra.release.aws.function import (
    FORMS,
    CallFailed,
    Form,
    LambdaFunction,
    Response,
    Throttled,
    predict_event,
)
from infra.release.errors import ReleaseError
from infra.release.evidence.collector import Buckets, VersionCounts
from infra.release.verdict.evidence import Arm, Labelled, Replay

_NO_ANSWER = ""  # of a version that crashed or refused: wrong


@dataclass(frozen=True)
class Call:
    """The outcome and duration of one call of a version."""

    label: str
    status: str  # of HTTP; "500" where no answer came
    seconds: float | None  # None for a thread's first call, which may have waited for a cold start


Pair = tuple[Call, Call] | Literal["late", "throttled"]  # of stable and candidate


@dataclass(frozen=True)
class Replayed:
    """The outcome of a replay.

    Attributes:
        used: images of the order that are spent, those that found no room included.
        stable, candidate: the calls as requests of each version.
    """

    replay: Replay
    used: int
    stable: Arm
    candidate: Arm


def replay(
    function: LambdaFunction,
    stable: str,
    candidate: str,
    images: Sequence[GoldenImage],
    concurrency: int,
    budget_s: float,
    buckets: Buckets,
    clock: Callable[[], float] = time.monotonic,
) -> Replayed:
    """Sends golden images to both versions by direct calls until the time is used up, and scores.

    The images take turns in every form of a body that callers use, so that a version which no
    longer reads one of them is found whatever its callers send meanwhile.
    """
    deadline = clock() + budget_s
    thread = local()

    def both(image: GoldenImage, form: Form) -> Pair:
        if clock() > deadline:
            return "late"
        is_first, thread.is_warm = not getattr(thread, "is_warm", False), True
        try:
            theirs = _call(function, stable, image, form, is_first=is_first)
            return theirs, _call(function, candidate, image, form, is_first=is_first)
        except Throttled:
            return "throttled"

    forms = [FORMS[place % len(FORMS)] for place in range(len(images))]
    with ThreadPoolExecutor(max(1, concurrency)) as pool:
        pairs = list(pool.map(both, images, forms))
    # An image behind the first one that was not asked comes with the next look.
    used = pairs.index("late") if "late" in pairs else len(pairs)
    asked = [pair for pair in pairs[:used] if not isinstance(pair, str)]
    arms = [VersionCounts(buckets), VersionCounts(buckets)]
    for pair in asked:
        for arm, call in zip(arms, pair, strict=True):
            arm.answered(call.status, call.seconds)
    labels = [
        image.label
        for image, pair in zip(images, pairs[:used], strict=False)
        if not isinstance(pair, str)
    ]
    return Replayed(_count(labels, asked), used, arms[0].arm(0, ()), arms[1].arm(0, ()))


def _call(
    function: LambdaFunction, version: str, image: GoldenImage, form: Form, *, is_first: bool
) -> Call:
    try:
        answer = function.ask(version, predict_event(image.data, form=form))
    except Throttled:
        raise
    except CallFailed:
        return Call(_NO_ANSWER, "500", None)
    return Call(_label(answer), str(answer.status), None if is_first else answer.seconds)


def _label(answer: Response) -> str:
    if answer.status != 200 or not isinstance(answer.document, dict):
        return _NO_ANSWER
    return str(answer.document.get("label", _NO_ANSWER))


def _count(labels: Sequence[str], pairs: Sequence[tuple[Call, Call]]) -> Replay:
    both = only_stable = only_candidate = alike = apart = 0
    for label, (theirs, mine) in zip(labels, pairs, strict=True):
        if theirs.label == label == mine.label:
            both += 1
        elif theirs.label == label:
            only_stable += 1
        elif mine.label == label:
            only_candidate += 1
        elif theirs.label == mine.label:
            alike += 1
        else:
            apart += 1
    return Replay(both, only_stable, only_candidate, alike, apart)


NONE = Labelled()


@dataclass(frozen=True)
class LabelReader:
    """Reads the labels of a release's answers, from the store in which the service captures.

    The service keeps unsure answers more often than sure ones, and people may be shown the unsure
    ones first. Of each version's labelled answers those are counted that a hash of their id draws,
    so that all have had the same chance: what is counted is a fair sample of the answers.

    Attributes:
        url: of the store, a folder or ``s3://bucket/prefix``.
        least_chance: the chance that the surest answer has of being captured and shown.
    """

    url: str
    least_chance: float

    def totals(
        self, classes: Mapping[str, Sequence[str]], began_s: float, until_s: float
    ) -> dict[str, Labelled]:
        """Right and wrong answers of each model since the release began.

        Args:
            classes: names of the classes of each model, in the model's order.

        Raises:
            ReleaseError: the store cannot be read.
        """
        try:
            captures = Captures(open_store(self.url))
            mine = [
                row for row in captures.answers(began_s, until_s) if row.model_version in classes
            ]
            said = captures.verdicts(about={row.request_id for row in mine})
        except StoreError as exc:
            raise ReleaseError(f"the labelled answers: {exc}") from exc
        right = dict.fromkeys(classes, 0)
        wrong = dict.fromkeys(classes, 0)
        for row in mine:
            if (verdict := said.get(row.key)) is None or verdict.label is None:
                continue
            if self._is_drawn(row, row.probability * (verdict.propensity or 1.0)):
                is_right = verdict.label == classes[row.model_version][row.answer]
                counts = right if is_right else wrong
                counts[row.model_version] += 1
        return {model: Labelled(right[model], wrong[model]) for model in classes}

    def _is_drawn(self, row: CapturedAnswer, chance: float) -> bool:
        return hash_uniform(f"{row.request_id}/{row.index}") < self.least_chance / chance


def since(total: Labelled, earlier: Sequence[Labelled]) -> Labelled:
    """The part of a total that is not in earlier windows; a withdrawn label still counts."""
    return Labelled(
        max(0, total.right - sum(one.right for one in earlier)),
        max(0, total.wrong - sum(one.wrong for one in earlier)),
    )
