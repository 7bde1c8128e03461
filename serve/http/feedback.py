"""POST /feedback: the correct label of an earlier prediction, from callers who learn it later."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import msgspec
from starlette.types import Receive, Scope, Send

from serve.errors import CaptureOff, InvalidField, Overloaded, UnsupportedMediaType
from serve.http.bodies import decoded, media_type, read_body
from serve.http.middleware import respond
from serve.http.schemas import Feedback, FeedbackResponse
from serve.http.service import Service

_MOST_WAITING = 64
_DECODER = msgspec.json.Decoder(Feedback)


class KeptAnswers(Protocol):
    """Captured predictions and their labels."""

    def say(self, feedback: Feedback, caller: str, asked_at: float) -> bool:
        """Stores a label; false if the caller sent the same one before. May take as long as a store
        does.

        Args:
            caller: digest of its API key; "" for the release manager.
            asked_at: time.monotonic() of the request.

        Raises:
            UnknownAnswer: it was not captured, or is not found in time.
            Contradiction: the caller sent another label before.
            StoreUnavailable: the store does not respond.
        """


class FeedbackEndpoint:
    """POST /feedback as an ASGI application. A thread accesses the store, for one request at a
    time.
    """

    def __init__(self, service: Service, answers: KeptAnswers | None) -> None:
        self._service, self._answers = service, answers
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feedback")
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = self._service.keys.caller(scope)
        body = await read_body(scope, receive, self._service.settings)
        if (kind := media_type(scope, body)) != "json":
            raise UnsupportedMediaType(f"expected JSON, got {kind}", field="content-type")
        feedback: Feedback = decoded(_DECODER, body)
        if feedback.label not in self._service.classes:
            known = ", ".join(self._service.classes[:20])
            raise InvalidField(f"the model knows no such class, expected one of {known}", "label")
        if self._answers is None:
            raise CaptureOff("no answer is kept here, so that none can be labelled (KILN_CAPTURE)")
        is_new = await self._say(self._answers, feedback, caller)
        answer = FeedbackResponse(feedback.request_id, feedback.index, feedback.label, is_new)
        await respond(send, msgspec.json.encode(answer), status=201 if is_new else 200)

    async def _say(self, answers: KeptAnswers, feedback: Feedback, caller: str) -> bool:
        if self._waiting >= _MOST_WAITING:
            raise Overloaded(
                f"{self._waiting} labels wait for the store", headers={"retry-after": "1"}
            )
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, answers.say, feedback, caller, time.monotonic()
            )
        finally:
            self._waiting -= 1
