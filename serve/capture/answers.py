"""Labels that callers give to answers that were kept."""

import time
from collections.abc import Callable

from common.captures import FEEDBACK, Captures, Label
from common.objects import Store, StoreError
from serve.capture.lookup import HOURS
from serve.capture.recorder import Recorder
from serve.errors import Contradiction, StoreUnavailable, UnknownAnswer
from serve.http.middleware import RELEASE_MANAGER
from serve.http.schemas import Feedback

_LOOK_S = 3.0  # in which the store is looked through for one request
_RETRY_S = "5"
_DIGITS = 12


class StoredAnswers:
    """`KeptAnswers` of a store that many processes write to. For one thread."""

    def __init__(self, recorder: Recorder, open_store: Callable[[], Store]) -> None:
        self._recorder, self._open_store = recorder, open_store
        self._store: Store | None = None

    def say(self, feedback: Feedback, caller: str, asked_at: float) -> bool:
        """As `KeptAnswers` has it."""
        try:
            if self._store is None:
                self._store = self._open_store()
            if not self._is_kept(self._store, feedback, asked_at):
                raise self._unknown(feedback)
            return _say(Captures(self._store), feedback, labeller_of(caller))
        except StoreError as exc:
            raise StoreUnavailable(str(exc), headers={"retry-after": _RETRY_S}) from exc

    def renew(self) -> None:
        """Opens the store anew, as a copy of the process must."""
        self._store = None

    def _is_kept(self, store: Store, feedback: Feedback, asked_at: float) -> bool:
        answer, recorder = (feedback.request_id, feedback.index), self._recorder
        # In this order: it moves from memory to the index.
        return (
            recorder.holds(*answer)
            or recorder.index.has(*answer)
            or recorder.index.find(store, *answer, asked_at, _LOOK_S)
        )

    def _unknown(self, feedback: Feedback) -> UnknownAnswer:
        age_s = f"{self._recorder.age_s:.0f}"
        return UnknownAnswer(
            f"no answer {feedback.index} of the request {feedback.request_id} is among those of "
            f"the last {HOURS} hours that were kept, which is a sample; one of the last {age_s} s "
            "may still be in the memory of another process: ask once more after Retry-After",
            field="request_id",
            headers={"retry-after": age_s},
        )


def labeller_of(caller: str) -> str:
    """The labeller's name of a caller: another for each API key, which it does not tell."""
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
                f"the same API key said {newest.label} before, and a label stays as it is",
                field="label",
            )
        if captures.say(label):
            return True  # else the same caller was faster by another request
