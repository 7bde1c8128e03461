"""Rounds of labelling, and one labeller's session on a round: next image, label, undo and skip.

A round is a Poisson sample of the predictions in no earlier round: each is drawn with its own
probability, higher where the model was unsure or the image looks unlike the model's test images,
and never zero, so that a mean of labels weighted by inverse probability estimates the mean over all
predictions. It is shown in random order, so any prefix of it is a sample with the same weights.
Several labellers share a round; Cohen's kappa says how far they agree.

The weights are those of priority sampling (Duffield, Lund and Thorup 2007, "Priority sampling for
estimation of arbitrary subset sums", Journal of the ACM 54:32): w/u compared with a threshold,
where the random number u is fixed for each prediction; but the threshold depends only on the
weights (Poisson sampling, as in Brewer, Early and Joyce 1972, Australian Journal of Statistics
14:231-239), so a probability known before the draw does not change when more predictions are
captured.

Labels are stored at once, and a session restores everything else from the store, so a killed one
resumes where it was.
"""

import base64
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.captures import Capture, Captures, Label, Verdict, hash_uniform, unsureness
from common.images import UnreadableImage, read_pixels
from common.model.artifact import DriftReference
from common.model.signals import IMAGE_SIGNALS, image_signals
from common.objects import Damaged


@dataclass(frozen=True)
class Agreement:
    """The agreement of two labellers on the predictions that both have labelled.

    Attributes:
        kappa: 1 for full agreement, 0 for agreement by chance; None if both used only one class,
            where it is undefined.
    """

    one: str
    other: str
    both: int
    same: int
    kappa: float | None


def agreements(verdicts: Iterable[Verdict]) -> list[Agreement]:
    """All pairs of labellers with at least one prediction in common, by name."""
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for verdict in verdicts:
        for one, other in combinations(sorted(verdict.said), 2):
            said = verdict.said[one], verdict.said[other]
            pairs.setdefault((one, other), []).append(said)
    return [_agreement(*names, said) for names, said in sorted(pairs.items())]


def _agreement(one: str, other: str, said: list[tuple[str, str]]) -> Agreement:
    same = sum(a == b for a, b in said)
    return Agreement(one, other, len(said), same, kappa(Counter(said)))


def kappa(table: Mapping[tuple[str, str], int]) -> float | None:
    """Cohen's kappa of a contingency table of two labellers; None where it is undefined.

    Source: Cohen 1960, "A coefficient of agreement for nominal scales", Educational and
    Psychological Measurement 20:37-46.
    """
    total = sum(table.values())
    first, second = Counter[str](), Counter[str]()
    for (one, other), count in table.items():
        first[one] += count
        second[other] += count
    observed = sum(count for (one, other), count in table.items() if one == other) / total
    by_chance = sum(first[name] * second[name] for name in first) / total**2
    return None if by_chance == 1 else (observed - by_chance) / (1 - by_chance)


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


_AHEAD = 3  # images to prefetch
_ATTEMPTS = 5


class Refused(ValueError):
    """The label is rejected; nothing was written."""


class Session:
    """A labeller's current round.

    Attributes:
        classes: class names, in the model's order.
        shows_answers: whether to show predictions before labelling, which biases labels.
    """

    def __init__(
        self,
        captures: Captures,
        labeller: str,
        classes: Sequence[str],
        reference_of: ReferenceOf,
        *,
        size: int = SIZE,
        shows_answers: bool = False,
    ) -> None:
        """Resumes the newest round with predictions left for this labeller, or draws one.

        Raises:
            StoreError, Damaged: the store cannot be used.
        """
        self.captures, self.labeller, self.classes = captures, labeller, tuple(classes)
        self.reference_of, self.size = reference_of, size
        self.shows_answers = shows_answers
        self.round: Round | None = None
        self._left = deque[Key]()
        known = rounds(captures)
        self._open(known[-1] if known else None)
        if not self._left:
            self.next_round()

    def next_round(self) -> bool:
        """Continues with another labeller's newer round, or draws one; false if nothing is left."""
        number = -1 if self.round is None else self.round.number
        newer = [one for one in rounds(self.captures) if one.number > number]
        following = newer[0] if newer else draw(self.captures, self.reference_of, size=self.size)
        if following is None:
            return False
        self._open(following)
        return bool(self._left) or self.next_round()

    def say(self, key: Key, label: str) -> None:
        """Labels a prediction of the round.

        Raises:
            Refused: it is not in the round, or the class is unknown.
            StoreError: it was not written.
        """
        if label not in self.classes:
            raise Refused(f"{label!r} is not one of the classes")
        self._say(key, label)
        self._said[key] = label
        self._left = deque(one for one in self._left if one != key)
        if key in self._done:
            self._done.remove(key)
        self._done.append(key)

    def undo(self) -> None:
        """Withdraws the labeller's last label of this round and shows its image again."""
        if not self._done:
            return
        key = self._done[-1]
        self._say(key, None)
        self._done.pop()
        del self._said[key]
        self._left.appendleft(key)

    def skip(self, key: Key) -> None:
        """Postpones a prediction until the others are done."""
        if key in self._left:
            self._left.remove(key)
            self._left.append(key)

    def state(self) -> dict[str, Any]:
        """The page's state for JSON; the model's predictions only where they may be shown."""
        last = self._done[-1] if self._done else None
        return {
            "labeller": self.labeller,
            "classes": self.classes,
            "round": None if self.round is None else self.round.number + 1,
            "done": len(self._done),
            "total": len(self._done) + len(self._left),
            "queue": [self._shown(key) for key in [*self._left][:_AHEAD]],
            "last": None if last is None else self._shown(last, answered=True),
            "agreement": [] if self._left else self.agreement(),
        }

    def agreement(self) -> list[dict[str, Any]]:
        """All pairs of labellers on their common predictions, over all rounds."""
        return [asdict(one) for one in agreements(self.captures.verdicts().values())]

    def _open(self, following: Round | None) -> None:
        self.round = following
        shown = {one.key: one for one in following.shown} if following else {}
        self._shown_of = shown
        self._rows: dict[Key, Capture] = {}
        for row in self.captures.rows() if shown else ():
            if row.key in shown:
                self._rows.setdefault(row.key, row)
        mine: dict[Key, Label] = {}
        for label in self.captures.labels({one for one, _ in shown}) if shown else ():
            if label.labeller == self.labeller and label.key in self._rows:
                mine[label.key] = label
        said = [label for label in mine.values() if label.label is not None]
        self._done = [label.key for label in sorted(said, key=lambda label: label.time)]
        self._said = {label.key: str(label.label) for label in said}
        # Deleted predictions are not shown.
        self._left = deque(key for key in shown if key in self._rows and key not in self._said)

    def _say(self, key: Key, label: str | None) -> None:
        if key not in self._rows:
            raise Refused(f"{key[0]} is not in this round")
        propensity = self._shown_of[key].propensity
        for _ in range(_ATTEMPTS):
            statement = Label(*key, label, self.labeller, time.time(), propensity)
            if self.captures.say(statement):
                return
        raise Refused("the labels could not be written: is this labeller active elsewhere?")

    def _shown(self, key: Key, *, answered: bool = False) -> dict[str, Any]:
        row = self._rows[key]
        shown: dict[str, Any] = {
            "request_id": row.request_id,
            "index": row.index,
            "image": "data:image/png;base64," + base64.b64encode(row.image).decode(),
        }
        if answered:
            shown["label"] = self._said[key]
        if answered or self.shows_answers:
            shown["answer"] = self.classes[row.answer]
            shown["confidence"] = max(row.probabilities)
        return shown
