"""Labels that callers send for captured predictions."""

import time
from collections.abc import Callable

from common.captures import FEEDBACK, Captures, Label
from common.objects import Store, StoreError
from serve.capture.lookup import HOURS
from serve.capture.recorder import Recorder
from serve.errors import Contradiction, StoreUnavailable, UnknownAnswer
from serve.http.middleware import RELEASE_MANAGER
from serve.http.schemas import Feedback

_LOOK_S = 3.0  # time budget for finding a request in the store
_RETRY_S = "5"
_DIGITS = 12


class StoredAnswers:
    """`KeptAnswers` on a store that many processes write to. For one thread."""

    def __init__(self, recorder: Recorder, open_store: Callable[[], Store]) -> None:
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
