"""A version asked directly, before callers can reach it: is it ready, with the right model?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from infra.release.errors import Refused
from infra.release.events import http_event, predict_event
from infra.release.function import CallFailed, LambdaFunction
from infra.release.golden import GoldenImage


@dataclass(frozen=True)
class Smoke:
    """What a version said.

    Attributes:
        model: version of its model.
        classes: what it can answer.
        seconds: time of the first call, in which it started.
    """

    model: str
    classes: tuple[str, ...]
    answer: str
    seconds: float


def smoke_test(
    function: LambdaFunction, version: str, expected_model: str | None, image: GoldenImage | None
) -> Smoke:
    """Asks /ready, /model/info and one golden image.

    Raises:
        Refused: says which answer was wrong, and what was expected.
    """
    _, seconds = _ask(function, version, "/ready", http_event("GET", "/ready"))
    info, _ = _ask(function, version, "/model/info", http_event("GET", "/model/info"))
    model, classes = str(info.get("version")), tuple(info.get("classes", ()))
    if expected_model and not model.startswith(expected_model):
        raise Refused(f"version {version} serves model {model}, expected {expected_model}")
    label = ""
    if image:
        answer, _ = _ask(function, version, "/predict", predict_event(image.data))
        label = str(answer.get("label"))
        if label not in classes:
            raise Refused(
                f"version {version} answers a golden image with {label!r}, which is none of its "
                f"classes {', '.join(classes)}"
            )
    return Smoke(model, classes, label, seconds)


def _ask(
    function: LambdaFunction, version: str, path: str, event: dict[str, Any]
) -> tuple[dict[str, Any], float]:
    try:
        answer = function.ask(version, event)
    except CallFailed as exc:
        raise Refused(f"version {version} does not answer {path}: {exc}") from exc
    if answer.status != 200 or not isinstance(answer.document, dict):
        raise Refused(
            f"version {version} answers {path} with {answer.status}, expected 200: "
            f"{answer.document!r:.300}"
        )
    return answer.document, answer.seconds
