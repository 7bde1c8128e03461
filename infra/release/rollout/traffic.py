"""Shifting the alias between versions, and smoke tests of a version before it gets traffic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common.golden import GoldenSet
from infra.release.aws.clients import Clock
from infra.release.aws.function import Alias, CallFailed, LambdaFunction, http_event, predict_event
from infra.release.errors import NotVerified, Refused, ReleaseError

_AGREEING = 3  # answers in a row: for some time after a move, callers may be sent either way


def wanted_alias(stable: str, candidate: str, weight: float) -> Alias:
    """Where the alias points while the candidate has a part of the traffic."""
    return Alias(stable, {candidate: weight} if weight else {})


def move(
    function: LambdaFunction, wanted: Alias, known: set[str], check: Callable[[], None]
) -> None:
    """Moves the alias, unless it is there already.

    Args:
        known: versions that the alias may be at; at another one somebody put it by hand.
        check: passes while this run may move it.

    Raises:
        ReleaseError: the alias is at a version of which this release knows nothing.
    """
    found = function.alias()
    if found.weights == wanted.weights:
        return
    if strangers := sorted(set(found.weights) - known):
        raise ReleaseError(
            f"the alias {function.alias_name} is at {found}, and version {strangers[0]} is none of "
            "this release: somebody moved it by hand. `bazel run //infra:rollback -- --to VERSION` "
            "puts it where it should be and ends the release"
        )
    check()
    function.point(wanted.version, wanted.others, seen=found)


def verify(
    function: LambdaFunction, version: str, model: str | None, within_s: float, clock: Clock
) -> str | None:
    """Waits until callers of the alias are answered by this version alone.

    Returns:
        The model version that answered.

    Raises:
        NotVerified: they are not, in time.
    """
    deadline = clock.now() + within_s
    agreeing = 0
    while True:
        problem, answered = _look(function, version, model)
        agreeing = 0 if problem else agreeing + 1
        if agreeing == _AGREEING:
            return answered
        if clock.now() > deadline:
            raise NotVerified(
                f"the alias {function.alias_name} was moved to version {version}, but after "
                f"{within_s:g} s {problem}. Look at the function's log, then "
                "`bazel run //infra:rollback -- --to VERSION`"
            )
        if problem:
            clock.sleep(0.5)


def _look(function: LambdaFunction, version: str, model: str | None) -> tuple[str, str | None]:
    try:
        alias = function.alias()
        if alias.weights != {version: 1.0}:
            return f"it reads back as {alias}", None
        info = function.model_info(function.alias_name)
    except (ReleaseError, CallFailed) as exc:
        return f"a call fails: {exc}", None
    if info["executed_version"] not in (None, version):
        return f"version {info['executed_version']} still answers", None
    if model is not None and info.get("version") != model:
        return f"model {info.get('version')} answers, expected {model}", None
    return "", info.get("version")


@dataclass(frozen=True)
class Smoke:
    """A version's answers to the smoke test.

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
    function: LambdaFunction,
    version: str,
    expected_model: str | None,
    golden: GoldenSet | None,
    release: str,
) -> Smoke:
    """Asks /ready, /model/info and one golden image, which the release's name chooses.

    Raises:
        Refused: says which answer was wrong, and what was expected.
    """
    _, seconds = _ask(function, version, "/ready", http_event("GET", "/ready"))
    info, _ = _ask(function, version, "/model/info", http_event("GET", "/model/info"))
    model, classes = str(info.get("version")), tuple(info.get("classes", ()))
    if expected_model and not model.startswith(expected_model):
        raise Refused(f"version {version} serves model {model}, expected {expected_model}")
    if golden and (foreign := sorted(golden.labels - {*classes})):
        raise Refused(
            f"the golden set ({golden.name}) has images of {', '.join(foreign[:4])}, which the "
            "model was not trained to tell: make one of its own data by `bazel run "
            "//infra/release:make_golden_set -- runs/<folder> golden.zip`"
        )
    label = ""
    if golden and golden.images:
        image = golden.order(release)[-1]
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
