"""A log of predictions, one JSON object a line, as the service answers them.

A line is an answer of ``/predict`` (``label`` or ``index``, and ``probability``), one of
``/predict/batch`` (``results``), or an object with ``probabilities``: a list in the order of the
classes, or one by name. ``signals`` may hold what was measured on the image, by name.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ml.drift.observed import InputError, Observed
from serve.contract.signals import CONFIDENCE, IMAGE_SIGNALS

_EXPECTED = (
    'a line is an object with "label" or "index" and "probability", with "probabilities", '
    'or with "results" of /predict/batch'
)


def read_log(path: Path, classes: Sequence[str], version: str) -> Observed:
    """All predictions of a log; lines without one, or by another model version, become problems.

    Raises:
        InputError: no such file, or no prediction in it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"{path} cannot be read as a log: {exc}") from exc
    predictions, problems = list[int](), list[str]()
    values: dict[str, list[float]] = {name: [] for name in (CONFIDENCE, *IMAGE_SIGNALS)}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            for prediction, signals in _predictions(json.loads(line), classes, version):
                predictions.append(prediction)
                for name, value in signals.items():
                    values[name].append(value)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
            problems.append(f"line {number}: {exc or type(exc).__name__}")
    if not predictions:
        first = f" ({problems[0]})" if problems else ""
        raise InputError(f"{path} holds no prediction{first}: {_EXPECTED}")
    measured = {name: np.array(seen) for name, seen in values.items() if seen}
    return Observed(str(path), np.array(predictions), measured, tuple(problems))


def _predictions(
    entry: Any, classes: Sequence[str], version: str
) -> Iterator[tuple[int, dict[str, float]]]:
    if not isinstance(entry, Mapping):
        raise ValueError(f"expected an object, got {type(entry).__name__}")
    if (other := str(entry.get("model_version", version))) != version:
        raise ValueError(f"answered by model {other[:12]}, not by {version[:12]}")
    if "results" in entry:
        for item in entry["results"]:
            if "prediction" in item:
                yield _prediction(item["prediction"], classes)
        return
    yield _prediction(entry, classes)


def _prediction(entry: Any, classes: Sequence[str]) -> tuple[int, dict[str, float]]:
    shares = entry.get("probabilities")
    if isinstance(shares, Mapping):
        shares = [shares[name] for name in classes]
    if shares is not None:
        if len(shares) != len(classes):
            raise ValueError(f"{len(shares)} probabilities, expected {len(classes)}")
        index, confidence = max(enumerate(shares), key=lambda pair: pair[1])
    else:
        index, confidence = _index(entry, classes), entry.get("probability")
    signals = {name: float(entry["signals"][name]) for name in _measured(entry)}
    if not isinstance(confidence, (int, float)) or not 0 <= confidence <= 1:
        raise ValueError(f"probability {confidence!r}, expected 0..1")
    return index, {CONFIDENCE: float(confidence), **signals}


def _index(entry: Any, classes: Sequence[str]) -> int:
    if "label" in entry:
        if entry["label"] not in classes:
            raise ValueError(f"label {entry['label']!r} is none of the model's classes")
        return classes.index(entry["label"])
    index = entry.get("index")
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(classes):
        raise ValueError(f"index {index!r}, expected 0..{len(classes) - 1}")
    return index


def _measured(entry: Any) -> list[str]:
    return [name for name in IMAGE_SIGNALS if name in entry.get("signals", {})]
