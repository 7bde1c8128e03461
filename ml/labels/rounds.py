"""Rounds of labelling: a random sample of captured predictions, with known probabilities.

A round is a Poisson sample of the predictions in no earlier round: each is drawn with its own
probability, higher where the model was unsure or the image looks unlike the model's test images,
and never zero, so that a mean of labels weighted by inverse probability estimates the mean over all
predictions.

A round is shown in random order, so any prefix of it is a sample with the same weights. Several
labellers share a round.

The weights are those of priority sampling (Duffield, Lund and Thorup 2007, "Priority sampling for
estimation of arbitrary subset sums", Journal of the ACM 54:32): w/u compared with a threshold,
where the random number u is fixed for each prediction; but the threshold depends only on the
weights (Poisson sampling, as in Brewer, Early and Joyce 1972, Australian Journal of Statistics
14:231-239), so a probability known before the draw does not change when more predictions are
captured.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.captures import Capture, Captures, hash_uniform, unsureness
from common.images import UnreadableImage, read_pixels
from common.model.artifact import DriftReference
from common.model.signals import IMAGE_SIGNALS, image_signals
from common.objects import Damaged

ROUNDS = "rounds/"
SIZE = 200  # expected size of a round
# Maximum probability in one round: predictions that later rounds cannot draw would have no weight
# there.
_MOST = 0.5
_FEW = 20  # up to this number, all predictions are shown
_FLOOR = 0.25  # minimum weight
_USUAL, _FAR = 2.0, 5.0  # deviations of a signal: where its weight starts, and where it is full

Key = tuple[str, int]
Floats = NDArray[np.float64]
Usual = dict[str, dict[str, tuple[float, float]]]
ReferenceOf = Callable[[str], DriftReference | None]


class Shown(msgspec.Struct, frozen=True):
    """A prediction of a round. `propensity` is the probability of being in this round: that no
    earlier round drew it, times the probability here.
    """

    request_id: str
    index: int
    propensity: float

    @property
    def key(self) -> Key:
        """The prediction's `Capture.key`."""
        return self.request_id, self.index


class Round(msgspec.Struct, frozen=True):
    """A stored round, in display order.

    `until` is the time of the draw: only predictions captured before it. A prediction of weight w
    has probability w/threshold, at most `_MOST`; 1 if the threshold is 0. `usual` holds mean and
    deviation of the image signals on the test images, by model version and signal, from which the
    weights were computed.
    """

    number: int
    until: float
    threshold: float
    usual: Usual
    shown: list[Shown]

    def chance(self, weights: Floats) -> Floats:
        if not self.threshold:
            return np.ones_like(weights)
        return np.minimum(_MOST, weights / self.threshold)


@dataclass
class _Pool:
    keys: list[Key]
    times: Floats
    unsure: Floats
    version: NDArray[np.str_]
    signals: dict[str, Floats]  # image signals

    def weights(self, usual: Usual) -> Floats:
        """Weights from `_FLOOR` on: plus up to one if the model wavered between two classes, plus
        up to one if an image signal is far from its values on test images.
        """
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
    """All rounds, in order.

    Raises:
        Damaged: one cannot be read.
    """
    found = []
    for entry in captures.store.entries(ROUNDS):
        try:
            found.append(msgspec.json.decode(captures.store.read(entry.key), type=Round))
        except msgspec.MsgspecError as exc:
            raise Damaged(f"{entry.key} is not a round: {exc}") from exc
    return found


def draw(
    captures: Captures,
    reference_of: ReferenceOf,
    *,
    size: int = SIZE,
    now: float | None = None,
) -> Round | None:
    """Draws and stores the next round; None if all predictions are in rounds.

    Args:
        reference_of: the drift reference of a model version; None if unavailable.
        size: expected number of predictions; at most half of the rest, unless these are few.

    Raises:
        StoreError, Damaged: the store cannot be used.
    """
    until = time.time() if now is None else now
    pool = _pool(captures.rows(until=until))
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
    left = np.ones(len(pool.keys))  # the probability that no earlier round drew it
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
        return rounds(captures)[plan.number]  # another labeller was faster: share that round
    return plan if shown else draw(captures, reference_of, size=size, now=now)


def _pool(rows: Iterable[Capture]) -> _Pool:
    keys: dict[Key, None] = {}
    times, unsure, versions = list[float](), list[float](), list[str]()
    signals: dict[str, list[float]] = {name: [] for name in IMAGE_SIGNALS}
    for row in rows:
        if row.key in keys:  # a caller reused a request id: labels would be ambiguous
            continue
        try:
            pixels = read_pixels(row.image)
        except UnreadableImage:  # nobody could label it
            continue
        keys[row.key] = None
        times.append(row.time)
        versions.append(row.model_version)
        unsure.append(unsureness(row.probabilities))
        for name, values in image_signals(pixels[None]).items():
            signals[name].append(float(values[0]))
    columns = {name: np.array(column) for name, column in signals.items()}
    return _Pool([*keys], np.array(times), np.array(unsure), np.array(versions), columns)


def _threshold(weights: Floats, size: int) -> float:
    """The threshold at which probabilities sum to `size`, or to the maximum that `_MOST` permits; 0
    if all are shown.
    """
    if len(weights) <= _FEW:
        return 0.0
    low, high = 0.0, float(weights.sum())
    for _ in range(100):
        middle = (low + high) / 2
        expected = float(np.minimum(_MOST, weights / middle).sum())
        low, high = (middle, high) if expected > size else (low, middle)
    return high
