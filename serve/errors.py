"""Errors of the service; each becomes a problem document of RFC 9457."""

import os
from collections.abc import Mapping

PROBLEM = "urn:kiln:problem:"  # the types of problems begin so


class ClientLeft(Exception):
    """The connection ended within the request: there is nobody to answer."""


class ServiceError(Exception):
    """An answer that is not a success. Subclasses carry the status and what they are called."""

    status = 400
    kind = "bad-request"  # the last part of the problem's type
    title = "Bad request"

    def __init__(
        self, detail: str, field: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field  # of the request, as images[3]
        self.headers = dict(headers or {})


class MalformedJson(ServiceError):
    kind, title = "malformed-json", "The body is not JSON"


class MalformedForm(ServiceError):
    kind, title = "malformed-form", "The body is not a form"


class MalformedEncoding(ServiceError):
    kind, title = "malformed-encoding", "The body is not compressed as it says"


class InvalidTensor(ServiceError):
    kind, title = "invalid-tensor", "A tensor is not as the model takes or gives it"


class Unauthorized(ServiceError):
    status, kind, title = 401, "unauthorized", "An API key is needed"


class NotFound(ServiceError):
    status, kind, title = 404, "not-found", "There is nothing at this path"


class CaptureOff(ServiceError):
    status, kind, title = 404, "capture-off", "This service keeps no answers"


class UnknownAnswer(ServiceError):
    status, kind, title = (
        404,
        "unknown-answer",
        "There is no such answer among those that were kept",
    )


class MethodNotAllowed(ServiceError):
    status, kind, title = 405, "method-not-allowed", "This path does not take the method"


class BodyTimeout(ServiceError):
    status, kind, title = 408, "body-timeout", "The body took too long to arrive"


class Contradiction(ServiceError):
    status, kind, title = 409, "contradiction", "The same caller said otherwise before"


class BodyTooLarge(ServiceError):
    status, kind, title = 413, "body-too-large", "The body is too large"


class ImageTooLarge(ServiceError):
    status, kind, title = 413, "image-too-large", "The image has too many pixels"


class UnsupportedImage(ServiceError):
    status, kind, title = 415, "unsupported-image", "The image is of no supported type"


class UnsupportedMediaType(ServiceError):
    status, kind, title = 415, "unsupported-media-type", "The body is of no supported type"


class InvalidField(ServiceError):
    status, kind, title = 422, "invalid-field", "A field has a value that it cannot have"


class UnreadableImage(ServiceError):
    status, kind, title = 422, "unreadable-image", "The image is damaged"


class InternalError(ServiceError):
    status, kind, title = 500, "internal-error", "The service made a mistake"


class StoreUnavailable(ServiceError):
    status, kind, title = 503, "store-unavailable", "The store of the answers cannot be asked"


class Overloaded(ServiceError):
    status, kind, title = 503, "overloaded", "The service is busy"


class NotReady(ServiceError):
    status, kind, title = 503, "not-ready", "The service does not answer as it should"


ALL: tuple[type[ServiceError], ...] = tuple(
    sorted(ServiceError.__subclasses__(), key=lambda error: (error.status, error.kind))
)


def problem_of(kind: type[ServiceError], detail: str, model_version: str) -> dict[str, str | int]:
    """The problem document about what never came to the application, under an id of its own."""
    return {
        "type": PROBLEM + kind.kind,
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "request_id": os.urandom(16).hex(),
        "model_version": model_version,
    }
