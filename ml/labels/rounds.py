"""Rounds of labelling: which captured answers are shown, drawn by chance and with which chance.

A round is a Poisson sample of the answers that no earlier round holds: each is taken with a chance
of its own, higher where the model was unsure or where the image looks unlike the model's test
images, and never zero; so a mean over labels that is weighted by 1/chance is one over all answers.
A round is shown in random order, so whatever part of it has been labelled when somebody stops is a
sample with the same weights. Several labellers share a round.

The weights are those of priority sampling (Duffield, Lund and Thorup 2007, "Priority sampling for
estimation of arbitrary subset sums", Journal of the ACM 54:32), w/u against a threshold with a
random number u that is an answer's own for good; but with the threshold set by the weights alone
(Poisson sampling, as in Brewer, Early and Joyce 1972, Australian Journal of Statistics 14:231-239):
a chance that is known before the draw stays what it is when further answers are captured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.captures import Capture, Captures, hash_uniform, unsureness
from common.images import read_pixels
from common.model.artifact import DriftReference
from common.model.signals import IMAGE_SIGNALS, image_signals
from common.objects import Damaged

ROUNDS = "rounds/"
SIZE = 200  # answers of a round, on average
_MOST = 0.5  # chance in one round: what a later one cannot draw has no weight in it
_FEW = 20  # answers that are shown without drawing
_FLOOR = 0.25  # the least weight
_USUAL, _FAR = 2.0, 5.0  # deviations of a signal: where drift begins, where it counts in full

Key = tuple[str, int]
Floats = NDArray[np.float64]
Usual = dict[str, dict[str, tuple[float, float]]]
ReferenceOf = Callable[[str], DriftReference | None]


class Shown(msgspec.Struct, frozen=True):
    """An answer of a round. `propensity` is the chance that it had of being in this one: that no
    earlier round took it, times the chance here."""

    request_id: str
    index: int
    propensity: float

    @property
    def key(self) -> Key:
        """The answer's `Capture.key`."""
        return self.request_id, self.index


class Round(msgspec.Struct, frozen=True):
    """A round as it is stored, in the order in which it is shown.

    `until` is when it was drawn: of answers captured before. An answer of weight w has the chance
    w/threshold, `_MOST` at most; 1 where the threshold is 0. `usual` holds mean and deviation of
    the image signals on the test images, by model version and signal, by which weights were made.
    """

    number: int
    until: float
    threshold: float
    usual: Usual
    shown: list[Shown]

    def chance(self, weights: Floats) -> Floats:
        """By which answers of these weights are taken."""
        if not self.threshold:
            return np.ones_like(weights)
        return np.minimum(_MOST, weights / self.threshold)


@dataclass
class _Pool:
    """Answers by column."""

    keys: list[Key]
    times: Floats
    unsure: Floats
    version: NDArray[np.str_]
    signals: dict[str, Floats]  # of the images

    def weights(self, usual: Usual) -> Floats:
        """Of being shown, from `_FLOOR` on: one more if the model wavered between two classes, and
        one more if an image signal is far from what it is on test images."""
        farthest = np.zeros(len(self.keys))
        for version, signals in usual.items():
            for name in signals.keys() & self.signals.keys():
                mean, deviation = signals[name]
                far = np.abs(self.signals[name] - mean) / max(deviation, 1e-6)
                farthest = np.where(self.version == version, np.maximum(farthest, far), farthest)
        drifted = (farthest - _USUAL) / (_FAR - _USUAL)
        weights: Floats = _FLOOR + self.unsure + np.clip(drifted, 0, 1)
        return weights


def rounds(captures: Captures) -> list[Round]:
    """All rounds that were drawn, in order.

    Raises:
        Damaged: one cannot be read.
    """
    found = []
    for entry in captures.store.entries(ROUNDS):
        try:
            found.append(msgspec.json.decode(captures.store.read(entry.key), type=Round))
        except msgspec.MsgspecError as exc:
            raise Damaged(f"{entry.key} holds no round: {exc}") from exc
    return found


def draw(
    captures: Captures,
    reference_of: ReferenceOf,
    *,
    size: int = SIZE,
    since: float = 0.0,
    now: float | None = None,
) -> Round | None:
    """Draws the next round and stores it; None where every answer is in one already.

    Args:
        reference_of: the drift reference of a model's version, None where it is not at hand.
        size: answers on average; never more than half of those that are left, unless these are few.
        since: of answers captured from then on.

    Raises:
        StoreError, Damaged: the store cannot be used.
    """
    until = time.time() if now is None else now
    pool = _pool(captures.rows(since, until))
    earlier = rounds(captures)
    taken = {shown.key for one in earlier for shown in one.shown}
    free = np.array([key not in taken for key in pool.keys], bool)
    if not free.any():
        return None
    usual: Usual = {}
    for version in map(str, np.unique(pool.version)):
        if reference := reference_of(version):
            signals = reference.signals
            usual[version] = {one.name: (one.mean, one.std) for one in signals}
    weights = pool.weights(usual)
    threshold = _threshold(weights[free], size)
    plan = Round(len(earlier), until, threshold, usual, [])
    left = np.ones(len(pool.keys))  # the chance that no earlier round took it
    for one in earlier:
        left *= np.where(pool.times < one.until, 1 - one.chance(pool.weights(one.usual)), 1.0)
    chance = plan.chance(weights)
    draws = [hash_uniform(f"{plan.number}/{request_id}/{index}") for request_id, index in pool.keys]
    chosen = np.flatnonzero(free & (np.array(draws) < chance))
    order = sorted(
        chosen, key=lambda row: hash_uniform("order/" + "/".join(map(str, pool.keys[row])))
    )
    shown = [Shown(*pool.keys[row], float(left[row] * chance[row])) for row in order]
    plan = msgspec.structs.replace(plan, shown=shown)
    if not captures.store.create(f"{ROUNDS}{plan.number:06d}.json", msgspec.json.encode(plan)):
        return rounds(captures)[plan.number]  # another labeller's was faster: that one is shared
    return plan if shown else draw(captures, reference_of, size=size, since=since, now=now)


def _pool(rows: Iterable[Capture]) -> _Pool:
    keys: dict[Key, None] = {}
    times, unsure, versions = list[float](), list[float](), list[str]()
    signals: dict[str, list[float]] = {name: [] for name in IMAGE_SIGNALS}
    for row in rows:
        if row.key in keys:  # a caller used an id again: labels could not tell them apart
            continue
        keys[row.key] = None
        times.append(row.time)
        versions.append(row.model_version)
        unsure.append(unsureness(row.probabilities))
        for name, values in image_signals(read_pixels(row.image)[None]).items():
            signals[name].append(float(values[0]))
    columns = {name: np.array(column) for name, column in signals.items()}
    return _Pool([*keys], np.array(times), np.array(unsure), np.array(versions), columns)


def _threshold(weights: Floats, size: int) -> float:
    """By which the chances add up to `size`, or to as much as `_MOST` lets them; 0 where all are
    shown."""
    if len(weights) <= _FEW:
        return 0.0
    low, high = 0.0, float(weights.sum())
    for _ in range(100):
        middle = (low + high) / 2
        expected = float(np.minimum(_MOST, weights / middle).sum())
        low, high = (middle, high) if expected > size else (low, middle)
    return high
