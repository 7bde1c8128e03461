"""Errors of the service; each becomes an RFC 9457 problem document."""

import os
from collections.abc import Mapping

PROBLEM = "urn:kiln:problem:"  # prefix of problem types


class ClientLeft(Exception):
    """The client disconnected during the request: there is nobody to answer."""


class ServiceError(Exception):
    """An error response. Subclasses carry the status, the problem type and its title."""

    status = 400
    kind = "bad-request"  # the last part of the problem type
    title = "Bad request"

    def __init__(
        self, detail: str, field: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field  # in the request, as images[3]
        self.headers = dict(headers or {})


class MalformedJson(ServiceError):
    kind, title = "malformed-json", "The body is not JSON"


class MalformedForm(ServiceError):
    kind, title = "malformed-form", "The body is not a form"


class MalformedEncoding(ServiceError):
    kind, title = "malformed-encoding", "The body does not match its content encoding"


class InvalidTensor(ServiceError):
    kind, title = "invalid-tensor", "A tensor does not match the model's inputs or outputs"


class Unauthorized(ServiceError):
    status, kind, title = 401, "unauthorized", "An API key is required"


class NotFound(ServiceError):
    status, kind, title = 404, "not-found", "There is nothing at this path"


class CaptureOff(ServiceError):
    status, kind, title = 404, "capture-off", "This service does not capture predictions"


class UnknownAnswer(ServiceError):
    status, kind, title = (404, "unknown-answer", "There is no such captured prediction")


class MethodNotAllowed(ServiceError):
    status, kind, title = 405, "method-not-allowed", "The method is not allowed for this path"


class BodyTimeout(ServiceError):
    status, kind, title = 408, "body-timeout", "The body took too long to arrive"


class Contradiction(ServiceError):
    status, kind, title = 409, "contradiction", "The same caller sent another label before"


class BodyTooLarge(ServiceError):
    status, kind, title = 413, "body-too-large", "The body is too large"


class ImageTooLarge(ServiceError):
    status, kind, title = 413, "image-too-large", "The image has too many pixels"


class UnsupportedImage(ServiceError):
    status, kind, title = 415, "unsupported-image", "The image type is not supported"


class UnsupportedMediaType(ServiceError):
    status, kind, title = 415, "unsupported-media-type", "The media type is not supported"


class InvalidField(ServiceError):
    status, kind, title = 422, "invalid-field", "A field has an invalid value"


class UnreadableImage(ServiceError):
    status, kind, title = 422, "unreadable-image", "The image is damaged"


class InternalError(ServiceError):
    status, kind, title = 500, "internal-error", "Internal error"


class StoreUnavailable(ServiceError):
    status, kind, title = 503, "store-unavailable", "The capture store is unavailable"


class Overloaded(ServiceError):
    status, kind, title = 503, "overloaded", "The service is busy"


class NotReady(ServiceError):
    status, kind, title = 503, "not-ready", "The model does not reproduce its recorded predictions"


ALL: tuple[type[ServiceError], ...] = tuple(
    sorted(ServiceError.__subclasses__(), key=lambda error: (error.status, error.kind))
)


def problem_of(kind: type[ServiceError], detail: str, model_version: str) -> dict[str, str | int]:
    """The problem document for a request that never reached the application, under a new request
    id.
    """
    return {
        "type": PROBLEM + kind.kind,
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "request_id": os.urandom(16).hex(),
        "model_version": model_version,
    }
