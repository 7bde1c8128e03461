"""Checks of a dataset before training.

A dataset that passes is accepted by every later step: training, export, plots, report, registry,
service. `open_data` opens a dataset for every command; `checked_part` is how its images are read.
"""

import math
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig

from ml.data.cifar10 import DatasetError, stratified_fold
from ml.data.packing import PackedImages

LONGEST_NAME = 100  # characters; the file name of a misclassified image contains two names
_DIGEST = re.compile("(?:md5:|sha256:)?[0-9a-f]{32,64}(?:[.]dir)?")  # as in the model artifact
_CHANNELS = (3, 1)
# Unicode categories that cannot be displayed or encoded: controls, surrogates, line separators.
_UNSEEN = {"Cc", "Cs", "Cn", "Co", "Zl", "Zp"}
_TURNS_AROUND = {*"\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"}
_FARTHEST = 10.0  # limit on the normalised pixels' mean and standard deviation
_SAMPLE = 500
NOTHING_TO_LEARN = "all training images have the same colour everywhere: there is nothing to learn"


def open_data(cfg: DictConfig, folder: Path | None = None) -> Any:
    """The data module of a configuration with its augmentation, its metadata checked; images are
    read on demand.

    Args:
        folder: location of the files, if not the one that the configuration names.

    Raises:
        DatasetError: the message says what is wrong and what was expected.
    """
    named = {} if folder is None else {"folder": str(folder.absolute())}
    data = instantiate(cfg.data, **named)
    check_statements(data)
    if fold := cfg.get("fold"):  # set by //ml:cross_validate
        data.divide = lambda labels: stratified_fold(labels, fold[0], fold[1], data.seed)
    if cfg.get("augmentation"):  # earlier releases had it in cfg.data
        data.augmentation = instantiate(cfg.augmentation)
    return data


def unwrapped(exc: Exception) -> BaseException:
    """The exception that a ``_target_`` raised, without Hydra's wrapper; other errors unchanged."""
    is_wrapper = isinstance(exc, InstantiationException) and exc.__cause__
    return exc.__cause__ if is_wrapper else exc  # type: ignore[return-value]


def check_statements(data: Any) -> None:
    """Checks a dataset's class names, image size, mean and standard deviation.

    Raises:
        DatasetError: the message says what is wrong and what was expected.
    """
    try:
        statements = data.classes, data.image_size, data.mean, data.std
    except AttributeError as exc:
        raise DatasetError(
            f"{_name(data)} states no {exc.name}: a dataset has classes, image_size, mean and std"
        ) from exc
    classes, image_size, mean, std = statements
    if problem := (
        _problem_of_names(classes)
        or _problem_of_size(image_size)
        or _problem_of_numbers("mean", mean, 0.0)
        or _problem_of_numbers("std", std, 1e-3)
    ):
        raise DatasetError(f"{_name(data)}.{problem}")


def check_classes(where: str, classes: Any) -> None:
    """Checks class names.

    Raises:
        DatasetError: the message begins with `where` and says what is wrong and what was expected.
    """
    if problem := _problem_of_names(classes):
        raise DatasetError(f"{where}: {problem}")


def check_image_size(data: Any) -> None:
    """Checks the image size, from which the size schedule is computed.

    Raises:
        DatasetError: the message has the value and what was expected.
    """
    if problem := _problem_of_size(getattr(data, "image_size", None)):
        raise DatasetError(f"{_name(data)}.{problem}")


def check_digest(digest: Any) -> str:
    """The digest of a dataset, if it is valid.

    Raises:
        DatasetError: it is not one that a model artifact could contain.
    """
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise DatasetError(
            f"data.digest is {_short(digest)}, expected 32 to 64 hexadecimal digits: "
            "hashlib.sha256(…).hexdigest() of all files"
        )
    return digest


def checked_part(
    data: Any, part: str
) -> tuple[NDArray[np.uint8] | PackedImages, NDArray[np.int64]]:
    """Reads the part ``train`` or ``test`` of a dataset: pixels (N, 3, H, W) and labels (N,);
    packed images stay on disk.

    Grey images, of one channel, are repeated to three channels; labels of any integer type become
    int64.

    Raises:
        DatasetError: the part cannot be used; the message says what was expected.
    """
    pixels, labels = readable_part(data, part)
    if part == "train" and (
        problem := _problem_of_counts(data, labels) or _problem_of_content(pixels)
    ):
        raise DatasetError(f"{_name(data)}.read({part!r}): {problem}")
    return pixels, labels


def readable_part(
    data: Any, part: str
) -> tuple[NDArray[np.uint8] | PackedImages, NDArray[np.int64]]:
    """`checked_part` for viewing a dataset: classes may be without images.

    Raises:
        DatasetError: the part cannot be used; the message says what was expected.
    """
    check_statements(data)
    where = f"{_name(data)}.read({part!r})"
    try:
        read = data.read(part)
    except OSError as exc:
        raise DatasetError(f"{where} cannot read its files: {exc}") from exc
    if not isinstance(read, tuple | list) or len(read) != 2:
        raise DatasetError(f"{where} returned {type(read).__name__}, expected (pixels, labels)")
    pixels, labels = read
    for what, array in (("pixels", pixels), ("labels", labels)):
        if not isinstance(array, np.ndarray | PackedImages):
            raise DatasetError(
                f"{where}: the {what} are a {type(array).__name__}, expected a NumPy array"
            )
    on_disk = isinstance(pixels, PackedImages)  # written by Kiln, so of the right type
    if pixels.shape[:1] == (0,):
        raise DatasetError(f"{where}: there are no images")
    if problem := (
        (None if on_disk else _problem_of_pixels(pixels, data.image_size))
        or _problem_of_labels(labels, len(pixels), data.classes)
        or (None if on_disk else _problem_of_statistics(pixels, data.mean, data.std))
    ):
        raise DatasetError(f"{where}: {problem}")
    if on_disk:
        return pixels, labels
    if pixels.shape[1] == 1:
        pixels = np.repeat(pixels, 3, axis=1)
    return np.ascontiguousarray(pixels), labels.astype(np.int64, copy=False)


def _problem_of_names(classes: Any) -> str | None:
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        return f"classes is {_short(classes)}, expected a tuple of names"
    if len(classes) < 2:
        return f"classes is {_short(classes)}, expected two names or more to tell apart"
    for place, name in enumerate(classes):
        if problem := _problem_of_name(name):
            return f"classes[{place}] is {_short(name)}: {problem}"
    known: dict[str, int] = {}
    for place, name in enumerate(classes):
        same = known.setdefault(unicodedata.normalize("NFC", name), place)
        if same != place:
            return f"classes[{same}] and classes[{place}] are both {_short(name)}: rename one"
    return None


def _problem_of_name(name: Any) -> str | None:
    if not isinstance(name, str):
        return f"expected text, got {type(name).__name__}"
    if not name.strip():
        return "expected a name, not nothing"
    if name != name.strip():
        return "expected no blanks at its ends"
    if len(name) > LONGEST_NAME:
        return f"expected at most {LONGEST_NAME} characters, got {len(name)}"
    for character in name:
        if unicodedata.category(character) in _UNSEEN or character in _TURNS_AROUND:
            return f"expected characters that can be printed, found U+{ord(character):04X}"
    return None


def _problem_of_size(size: Any) -> str | None:
    pair = isinstance(size, Sequence) and len(size) == 2
    if not pair or not all(_is_whole(edge) and edge >= 1 for edge in size):
        return f"image_size is {_short(size)}, expected (height, width) in pixels"
    return None


def _problem_of_numbers(name: str, values: Any, least: float) -> str | None:
    expected = f"three numbers in {least:g}…1, of pixels scaled to 0…1 (one if they are grey)"
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return f"{name} is {_short(values)}, expected {expected}"
    if len(numbers) not in _CHANNELS:
        return f"{name} has {len(numbers)} numbers, expected {expected}"
    if not all(math.isfinite(number) and least <= number <= 1 for number in numbers):
        hint = ": divide them by 255" if max(numbers) > 1 else ""
        return f"{name} is {_short(values)}, expected {expected}{hint}"
    return None


def _problem_of_pixels(pixels: NDArray[Any], size: Sequence[int]) -> str | None:
    height, width = size
    expected = f"expected uint8 (N, 3, {height}, {width}), or one channel for grey"
    if pixels.dtype != np.uint8:
        return f"the pixels are {pixels.dtype}, {expected}: {_cure_of_dtype(pixels)}"
    if pixels.ndim == 3:
        return f"the pixels are {pixels.shape}, {expected}: of grey ones, pixels[:, None]"
    if pixels.ndim != 4:
        return f"the pixels are {pixels.shape}, {expected}"
    if pixels.shape[1] not in _CHANNELS or pixels.shape[2:] != (height, width):
        if pixels.shape[3] in _CHANNELS and pixels.shape[1:3] == (height, width):
            return f"the pixels are {pixels.shape}, {expected}: pixels.transpose(0, 3, 1, 2)"
        if 4 in (pixels.shape[1], pixels.shape[3]):
            return f"the pixels are {pixels.shape}, {expected}: leave alpha, the fourth, out"
        return f"the pixels are {pixels.shape}, {expected}; image_size says {height} × {width}"
    if (brightest := int(pixels.max())) <= 1:
        return f"the brightest pixel is {brightest}, expected 0…255: was 0…1 cast to uint8?"
    return None


def _cure_of_dtype(pixels: NDArray[Any]) -> str:
    if not np.issubdtype(pixels.dtype, np.number):
        return "convert them"
    low, high = float(pixels.min()), float(pixels.max())
    if np.issubdtype(pixels.dtype, np.floating) and low >= 0 and high <= 1:
        return "they lie in 0…1, so (255 * pixels).round().astype(np.uint8)"
    if low >= 0 and high <= 255:
        return "they lie in 0…255, so pixels.round().astype(np.uint8)"
    return f"they lie in {low:g}…{high:g}, scale them to 0…255 first"


def _problem_of_labels(labels: NDArray[Any], images: int, classes: Sequence[str]) -> str | None:
    last = len(classes) - 1
    if labels.ndim == 2:
        return f"the labels are {labels.shape}, expected ({images},): of one-hot rows, .argmax(1)"
    if labels.shape != (images,):
        return f"there are {images} images and {labels.size} labels, expected one for each"
    if not np.issubdtype(labels.dtype, np.integer):
        return f"the labels are {labels.dtype}, expected whole numbers 0…{last}"
    low, high = int(labels.min()), int(labels.max())
    if (low, high) == (1, last + 1):
        return f"the labels are 1…{high}, expected 0…{last}: subtract one"
    if low < 0 or high > last:
        place = int(labels.argmin() if low < 0 else labels.argmax())
        return f"label {place} is {labels[place]}, expected 0…{last} for {last + 1} classes"
    return None


def _problem_of_statistics(
    pixels: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]
) -> str | None:
    """Mean and standard deviation may be those of another dataset, as is common, but not so far off
    that training would fail."""
    sample = pixels[:: max(1, len(pixels) // _SAMPLE)] / np.float32(255)
    center = (sample.mean((0, 2, 3), dtype=np.float64) - mean) / std
    spread = sample.std((0, 2, 3), dtype=np.float64) / std
    if max(abs(center).max(), spread.max()) <= _FARTHEST:
        return None
    found = [
        [round(float(number), 3) for number in values]
        for values in (sample.mean((0, 2, 3)), sample.std((0, 2, 3)))
    ]
    return (
        f"mean={tuple(mean)} and std={tuple(std)} are far from what the pixels are, "
        f"about {found[0]} and {found[1]} by channel"
    )


def _problem_of_content(pixels: NDArray[np.uint8] | PackedImages) -> str | None:
    if isinstance(pixels, PackedImages):  # the std in its facts is checked instead
        return None
    first = pixels[:1, :, :1, :1]
    same = (pixels[:_SAMPLE] == first).all() and (pixels == first).all()
    return NOTHING_TO_LEARN if same else None


def _problem_of_counts(data: Any, labels: NDArray[np.integer[Any]]) -> str | None:
    """Each class needs a training image in addition to its share of the validation images."""
    classes, validation = data.classes, getattr(data, "validation_size", None)
    counts = np.bincount(labels, minlength=len(classes))
    rarest = int(counts.argmin())
    if not counts[rarest]:
        others = np.count_nonzero(counts == 0) - 1
        more = f" and {others} more" if others else ""
        return f"class {_short(classes[rarest])}{more} has no training images: leave it out"
    if validation is None:
        return None
    if not validation:
        return (
            f"data.validation_size={validation}, expected at least {len(classes)}, one of each "
            "class: the best epoch is chosen by them"
        )
    if 0 < validation < 1:
        return None if counts.max() > 1 else "no class has two images, one of them to judge by"
    if counts[rarest] <= (share := validation // len(classes)):
        most = (counts[rarest] - 1) * len(classes)
        return (
            f"class {_short(classes[rarest])} has {counts[rarest]} training images and "
            f"data.validation_size={validation} takes {share} per class: take at most {most}"
        )
    return None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _name(data: Any) -> str:
    return type(data).__name__


def _short(value: Any) -> str:
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
