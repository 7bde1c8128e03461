"""One labeller's session on a round: next image, label, undo and skip.

Labels are stored at once, and a session restores everything else from the store, so a killed one
resumes where it was.
"""

import base64
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from common.captures import Capture, Captures, Label
from ml.labels.agreement import agreements
from ml.labels.rounds import SIZE, Key, ReferenceOf, Round, draw, rounds

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
