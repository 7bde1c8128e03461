"""Observed traffic: images of a folder, or a log of predictions."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.images import Codec, ImageError
from common.model.artifact import DriftReference
from common.model.drift import CLASSES, Counts
from common.model.signals import CONFIDENCE, IMAGE_SIGNALS
from ml.artifact.artifact import Artifact, Signals, bins_of, measured

_BATCH = 200


class InputError(ValueError):
    """The input cannot be compared; the message says what was expected."""


@dataclass(frozen=True)
class Observed:
    """Predictions for N images, and signals measured on as many of them as possible.

    Attributes:
        predictions: (N,) class indices.
        signals: values by name, at most N each.
        problems: what was skipped and why, one line each.
    """

    source: str
    predictions: NDArray[np.int64]
    signals: Signals
    problems: Sequence[str] = field(default=())


def observe(
    artifact: Artifact,
    images: NDArray[np.uint8],
    source: str,
    progress: Callable[[int], None] = lambda _: None,
) -> Observed:
    """A model's predictions for (N, H, W, 3) images, N >= 1; `progress` is called with each batch's
    size.
    """
    parts = []
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        parts.append(artifact.predict(batch).probabilities)
        progress(len(batch))
    probabilities = np.concatenate(parts)
    return Observed(source, probabilities.argmax(axis=1), measured(images, probabilities))


def counted(reference: DriftReference, predictions: NDArray[np.int64], signals: Signals) -> Counts:
    """The window in the reference's bins: a vectorised `Counts.add`."""
    bins = {s.name: bins_of(s, signals[s.name]) for s in reference.signals if s.name in signals}
    return count_bins(reference, bins | {CLASSES: predictions})


def count_bins(reference: DriftReference, bins: Mapping[str, NDArray[np.int64]]) -> Counts:
    """The window from predicted classes and bins, one of each per image; a missing signal was not
    measured.
    """
    window = Counts.empty(reference)
    window.classes = np.bincount(bins[CLASSES], minlength=len(window.classes)).tolist()
    for name, counts in window.signals.items():
        if name in bins:
            window.signals[name] = np.bincount(bins[name], minlength=len(counts)).tolist()
    return window


def listed(problems: Iterable[str], most: int = 5) -> list[str]:
    """The first few of many problems, and the number of others."""
    every = list(problems)
    return every[:most] + ([f"… and {len(every) - most} more"] if len(every) > most else [])


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")


def image_files(folder: Path) -> list[Path]:
    """Image files in a folder and its subfolders, sorted; hidden ones are skipped.

    Raises:
        InputError: the folder does not exist, or has no images.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: --images takes a folder of image files")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not files:
        raise InputError(
            f"{folder} holds no image: expected files ending in {', '.join(IMAGE_SUFFIXES)}"
        )
    return files


def read_images(files: list[Path], codec: Codec) -> Iterator[tuple[Path, NDArray[np.uint8] | str]]:
    """Each file with its (H, W, 3) RGB pixels as decoded by the service, or the reason why it has
    none.
    """
    for path in files:
        try:
            yield path, codec.decode(path.read_bytes())
        except (ImageError, OSError) as exc:
            yield path, f"unreadable ({exc})"


_EXPECTED = (
    'a line is an object with "label" or "index" and "probability", with "probabilities", '
    'or with "results" of /predict/batch'
)


def read_log(path: Path, classes: Sequence[str], version: str) -> Observed:
    """Reads a log's predictions; invalid lines and those of other model versions become problems.

    Raises:
        InputError: the file does not exist, or has no predictions.
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
