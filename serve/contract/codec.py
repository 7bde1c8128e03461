"""How each metadata key of a model artifact is written as text, and when a reader takes it."""

import base64
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from serve.contract.model_file import ArtifactError
from serve.contract.signals import SIGNALS
from serve.contract.values import DriftReference, ParityVector, Scores, SignalReference


@dataclass(frozen=True)
class Field:
    """One key: a phrase for error messages, and both directions."""

    expectation: str
    encode: Callable[[Any], str]
    decode: Callable[[str], Any]  # raises an ordinary exception on anything unexpected


def shortened(text: str) -> str:
    """Quoted for an error message, long values cut."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def to_json(value: Any) -> str:
    """Canonical JSON: equal values give equal text."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError as exc:
        raise ArtifactError(f"{shortened(str(value))} holds a number that is not finite") from exc


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError


def _text(pattern: str, expectation: str) -> Field:
    def decode(text: str) -> str:
        _require(re.fullmatch(pattern, text) is not None)
        return text

    return Field(expectation, str, decode)


def _json(
    expectation: str,
    decode: Callable[[Any], Any],
    encode: Callable[[Any], Any] = lambda value: value,
) -> Field:
    return Field(
        expectation, lambda value: to_json(encode(value)), lambda text: decode(json.loads(text))
    )


def _number(value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    _require(isinstance(value, (int, float)) and not isinstance(value, bool))
    _require(math.isfinite(value) and low <= value <= high)
    return float(value)


def _integer(value: Any) -> int:
    _require(isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31)
    return int(value)


def _sequence(value: Any, length: int | None = None) -> list[Any]:
    _require(isinstance(value, list) and len(value) > 0 and length in (None, len(value)))
    return list(value)


def _shares(value: Any) -> tuple[float, ...]:
    shares = tuple(_number(share, 0, 1) for share in _sequence(value))
    _require(math.isclose(sum(shares), 1, abs_tol=1e-3))
    return shares


def _class_names(value: Any) -> tuple[str, ...]:
    names = _sequence(value)
    _require(
        len(names) >= 2
        and all(isinstance(name, str) and name for name in names)
        and len(set(names)) == len(names)
    )
    return tuple(names)


def _test_metrics(value: Any) -> Scores:
    return Scores(
        images=_integer(value["images"]),
        accuracy=_number(value["accuracy"], 0, 1),
        macro_f1=_number(value["macro_f1"], 0, 1),
        loss=_number(value["loss"], 0),
        calibration_error=_number(value["calibration_error"], 0, 1),
    )


def _signal(value: Any) -> SignalReference:
    edges = tuple(_number(edge) for edge in _sequence(value["edges"]))
    _require(all(low < high for low, high in pairwise(edges)))
    shares = _shares(value["shares"])
    _require(len(shares) == len(edges) + 1)
    mean, std = _number(value["mean"]), _number(value["std"], 0)
    return SignalReference(value["name"], mean, std, edges, shares)


def _drift_reference(value: Any) -> DriftReference:
    signals = tuple(_signal(signal) for signal in _sequence(value["signals"], len(SIGNALS)))
    _require(tuple(signal.name for signal in signals) == SIGNALS)
    return DriftReference(_integer(value["images"]), _shares(value["class_priors"]), signals)


def _parity(value: Any) -> ParityVector:
    return ParityVector(
        images=base64.b64decode(value["images"], validate=True),
        probabilities=tuple(_shares(row) for row in _sequence(value["probabilities"])),
        tolerance=_number(value["tolerance"], 0, 1),
    )


def _parity_to_json(parity: ParityVector) -> dict[str, Any]:
    return asdict(parity) | {"images": base64.b64encode(parity.images).decode()}


_DIGEST = "(?:md5:|sha256:)?[0-9a-f]{32,64}(?:[.]dir)?"

FIELDS: dict[str, Field] = {
    "name": _text("[a-z0-9][a-z0-9._-]*", "lower-case letters, digits, '.', '_' and '-'"),
    "version": _text("[0-9a-f]{64}", "64 hexadecimal digits"),
    "classes": _json("a JSON list of two or more different names", _class_names),
    "input_size": _json(
        "[height, width] in pixels", lambda v: tuple(_integer(n) for n in _sequence(v, 2))
    ),
    "mean": _json(
        "three numbers in 0..1", lambda v: tuple(_number(n, 0, 1) for n in _sequence(v, 3))
    ),
    "std": _json(
        "three numbers in 0.001..1", lambda v: tuple(_number(n, 1e-3, 1) for n in _sequence(v, 3))
    ),
    "opset": _json("a positive integer", _integer),
    "git_revision": _text(
        "[0-9a-f]{40}(?:-dirty)?|unknown",
        "40 hexadecimal digits, perhaps '-dirty', or 'unknown'",
    ),
    "config_digest": _text(_DIGEST, "a digest in hexadecimal digits"),
    "dataset_digest": _text(_DIGEST, "a digest in hexadecimal digits"),
    "lock_digest": _text(_DIGEST, "a digest in hexadecimal digits"),
    "test_metrics": _json(
        "images, accuracy, macro_f1, loss and calibration_error", _test_metrics, asdict
    ),
    "quantisation": _text("none|int8", "'none' or 'int8'"),
    "drift_reference": _json(
        f"images, class_priors and the signals {', '.join(SIGNALS)}", _drift_reference, asdict
    ),
    "parity": _json(
        "images in base64, their probabilities and a tolerance", _parity, _parity_to_json
    ),
    "device": _text(".+", "the kind of device that trained it"),
    "precision": _text(".+", "the precision it was trained with"),
}
