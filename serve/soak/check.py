"""Whether an answer is the right one."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from serve.soak.cases import Case, Expected

_PROBLEM = "urn:kiln:problem:"

Kind = Literal["server error", "wrong status", "wrong answer"]


class Mistake(NamedTuple):
    """What is wrong with an answer."""

    kind: Kind
    detail: str


class _Wrong(Exception):
    pass


def check(
    case: Case, status: int, body: bytes, classes: Sequence[str], tolerance: float
) -> Mistake | None:
    """None where all is as it must be.

    Args:
        tolerance: of each probability.
    """
    if status >= 500:
        return Mistake("server error", f"{case.name}: {status} {body[:300]!r}")
    if status != case.status:
        return Mistake("wrong status", f"{case.name}: {status}, expected {case.status}")
    try:
        answer = msgspec.json.decode(body)
        if status != 200:
            _same(answer["type"], _PROBLEM + case.problem)
        elif case.is_batch:
            _same([item["index"] for item in answer["results"]], [*range(len(case.images))])
            for item, expected in zip(answer["results"], case.images, strict=True):
                _check_item(item, expected, classes, tolerance)
        else:
            _check_image(answer, case.images[0], classes, tolerance)
    except (_Wrong, KeyError, TypeError, ValueError, msgspec.DecodeError) as exc:
        return Mistake("wrong answer", f"{case.name}: {type(exc).__name__} {exc}: {body[:300]!r}")
    return None


def _check_item(
    item: Mapping[str, Any], expected: Expected, classes: Sequence[str], tolerance: float
) -> None:
    if isinstance(expected, int):
        _same(item["error"]["status"], expected)
    else:
        _check_image(item["prediction"], expected, classes, tolerance)


def _check_image(
    found: Mapping[str, Any], expected: Expected, classes: Sequence[str], tolerance: float
) -> None:
    assert not isinstance(expected, int)
    best = max(range(len(expected)), key=expected.__getitem__)
    _same((found["label"], found["index"]), (classes[best], best))
    _same(found["top_k"][0]["label"], classes[best])
    for name, probability in zip(classes, expected, strict=True):
        difference = abs(found["probabilities"][name] - probability)
        if not difference <= tolerance:
            raise _Wrong(f"the probability of {name} is {difference:.2g} away")


def _same(found: object, expected: object) -> None:
    if found != expected:
        raise _Wrong(f"{found}, expected {expected}")
