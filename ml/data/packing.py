"""Packs image files once, as the pixels that the model sees, so that no epoch decodes them again.

A packed dataset is a folder of three files. ``train.bin`` and ``test.bin`` hold pixels (N, H, W, 3)
uint8, then labels (N,) int64; if the dataset specifies validation images, they are the last ones of
``train.bin``. ``dataset.json`` describes them: class names, size, mean and standard deviation of
the channels, the digest. Images are sorted by the hashes of their files: a random order that
depends neither on where the files are nor on what they are called.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from common.files import sha256_of, write_whole
from common.images import Codec, ImageError
from common.model.artifact import Resize
from common.resources import available_cpus
from common.terminal import Progress

PARTS = ("train", "validation", "test")
FACTS = "dataset.json"
_FORMAT = 1  # to be incremented when the files or the decoding change
_CHUNK = 16  # files per task
_LABEL = np.dtype("<i8")


@dataclass(frozen=True)
class Sample:
    """An image file of a dataset, with the SHA-256 of its bytes in hex."""

    path: Path
    label: int
    part: str  # of PARTS
    sha256: str


class PackedImages:
    """Images in a file, read on demand: behaves like an array (N, H, W, 3) of uint8 but takes no
    memory.

    Reads go through the operating system's page cache, so repeated reads come from memory as long
    as some is free, and never count as this process's own memory.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self, path: Path, shape: tuple[int, int, int, int], rows: NDArray[np.int64] | None = None
    ) -> None:
        self._path, self._file = path, os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._image = shape[1:]
        self._rows = np.arange(shape[0]) if rows is None else rows

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, 3), as of an array."""
        height, width, channels = self._image
        return len(self._rows), height, width, channels

    @property
    def nbytes(self) -> int:
        """Bytes that the images would take in memory."""
        return int(np.prod(self.shape, dtype=np.int64))

    def select(self, rows: NDArray[np.int64] | slice) -> PackedImages:
        """Only these images, in this order; reads none of them."""
        shape = (len(self._rows), *self._image)
        return PackedImages(self._path, shape, self._rows[rows])

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        """Reads one image by its index, or several by a slice or an array of indices."""
        rows = np.atleast_1d(self._rows[index])
        images = np.empty((len(rows), *self._image), np.uint8)
        size = int(np.prod(self._image))
        ends = np.flatnonzero(np.diff(rows) != 1) + 1  # of runs that are contiguous in the file
        for run in np.split(np.arange(len(rows)), ends) if len(rows) else ():
            target = memoryview(images[run[0] : run[-1] + 1]).cast("B")  # type: ignore[arg-type]
            start = int(rows[run[0]]) * size
            while target:
                if not (read := os.preadv(self._file, [target], start)):
                    raise OSError(f"{self._path} is cut short")
                target, start = target[read:], start + read
        return images[0] if np.ndim(self._rows[index]) == 0 else images

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or np.uint8, copy=False)


@dataclass(frozen=True)
class Packed:
    """A packed dataset; `facts` is the content of dataset.json."""

    folder: Path
    facts: Mapping[str, Any]

    @property
    def damaged(self) -> list[dict[str, str]]:
        """Path and reason of every file that could not be decoded."""
        return list(self.facts["damaged"])

    def count(self, part: str) -> int:
        """The number of images of a part."""
        return sum(self.facts["counts"].get(part, []))

    def images(self, part: str) -> PackedImages:
        """Images of ``train``, with those of validation at the end, or of ``test``."""
        height, width = self.facts["image_size"]
        return PackedImages(self._file(part), (self._images_in(part), height, width, 3))

    def labels(self, part: str) -> NDArray[np.int64]:
        """Labels (N,) of ``train``, with those of validation at the end, or of ``test``."""
        count = self._images_in(part)
        offset = count * 3 * int(np.prod(self.facts["image_size"]))
        return np.fromfile(self._file(part), _LABEL, count, offset=offset).astype(np.int64)

    def _file(self, part: str) -> Path:
        return self.folder / f"{part}.bin"

    def _images_in(self, part: str) -> int:
        return sum(self.count(name) for name in PARTS if _file_of(name) == part)


def _file_of(part: str) -> str:
    return "train" if part == "validation" else part


def read_packed(folder: Path) -> Packed:
    """Reads the packed dataset in a folder.

    Raises:
        OSError, ValueError: there is none that this release can read.
    """
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    if facts.get("format") != _FORMAT:
        raise ValueError(f"{folder / FACTS} has format {facts.get('format')}, expected {_FORMAT}")
    return Packed(folder, facts)


def pack(
    samples: Sequence[Sample],
    classes: Sequence[str],
    *,
    size: tuple[int, int],
    resize: Resize,
    max_pixels: int,
    cache: Path,
    root: Path,
) -> Packed:
    """Packs the samples into a folder of the cache, unless it exists already.

    Damaged files are left out and listed. If several processes ask for the same dataset, one of
    them packs it.

    Args:
        size: height and width.
        cache: holds packed datasets, each in a folder named after a digest of its contents.
        root: the folder to which the listed paths of damaged files are relative.
    """
    ordered = sorted(samples, key=lambda one: (PARTS.index(one.part), one.sha256, one.label))
    settings = {"size": list(size), "resize": resize, "max_pixels": max_pixels, "format": _FORMAT}
    key = digest_of([settings, [*classes], [[s.part, s.label, s.sha256] for s in ordered]])[:24]
    with locked(cache, key):
        if not (cache / key / FACTS).is_file():
            with published(cache, key) as staged:
                codec = Codec(size, max_pixels, resize)
                facts = _write(staged, ordered, classes, codec.decode, root)
                facts |= {"image_size": list(size), "resize": resize}
                write_whole(staged / FACTS, json.dumps(facts, indent=2) + "\n")
    return read_packed(cache / key)


@contextmanager
def published(cache: Path, key: str) -> Iterator[Path]:
    """A new folder that becomes the cache's entry in one step at the end, or is deleted after an
    error. Call with the lock held, since what killed processes left is removed.
    """
    for leftover in cache.glob(f".{key}.partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{key}.partial-", dir=cache))
    try:
        yield staged
        staged.chmod(0o755)
        staged.rename(cache / key)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


@contextmanager
def locked(cache: Path, key: str) -> Iterator[None]:
    """If several processes make the same dataset of the cache, one works and the others wait."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f".{key}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with Progress("waiting for another process that packs this dataset"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(
    folder: Path,
    samples: Sequence[Sample],
    classes: Sequence[str],
    decode: Callable[[bytes], NDArray[np.uint8]],
    root: Path,
) -> dict[str, Any]:
    """Writes both files and returns the facts about them."""
    counts = {part: [0] * len(classes) for part in PARTS}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    lines, damaged = list[str](), list[dict[str, str]]()
    total = np.zeros((3, 256), np.int64)
    files = {part: (folder / f"{part}.bin").open("wb") for part in labels}
    try:
        for sample, (found, histogram) in _decoded(samples, decode):
            if isinstance(found, str):
                damaged.append({"path": shown_path(sample.path, root), "reason": found})
                continue
            file = _file_of(sample.part)
            files[file].write(found.data)
            labels[file].append(sample.label)
            counts[sample.part][sample.label] += 1
            lines.append(f"{sample.part} {classes[sample.label]} {sample.sha256}")
            if sample.part == "train":
                total += histogram
        for part, file_labels in labels.items():
            files[part].write(np.array(file_labels, _LABEL).tobytes())
    finally:
        for file_ in files.values():
            file_.close()
    mean, std = _mean_and_std(total)
    return {
        "format": _FORMAT,
        "digest": digest_of([[*classes], lines]),
        "classes": [*classes],
        "counts": counts,
        "mean": mean,
        "std": std,
        "damaged": sorted(damaged, key=lambda one: one["path"]),
    }


def _histogram(image: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(H, W, 3) -> (3, 256): how many pixels of each channel have each value."""
    channels = image.reshape(-1, 3).T
    return np.stack([np.bincount(channel, minlength=256) for channel in channels])


def _mean_and_std(histogram: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, scaled to 0…1; exact sums, so that the order of
    the images does not matter."""
    values, pixels = np.arange(256), max(histogram[0].sum(), 1)
    mean = histogram @ values / pixels
    std = np.sqrt(np.maximum(histogram @ values**2 / pixels - mean**2, 0))
    return (mean / 255).round(6).tolist(), (std / 255).round(6).tolist()


_Found = tuple[NDArray[np.uint8] | str, NDArray[np.int64]]  # pixels or a reason, the histogram
_NOTHING = np.zeros((3, 256), np.int64)


def _decoded(
    samples: Sequence[Sample], decode: Callable[[bytes], NDArray[np.uint8]]
) -> Iterator[tuple[Sample, _Found]]:
    """Each sample, in order, with its pixels or with the reason why it has none."""

    def work(chunk: Sequence[Sample]) -> list[_Found]:
        found: list[_Found] = []
        for sample in chunk:
            try:
                pixels = np.ascontiguousarray(decode(sample.path.read_bytes()))
                found.append((pixels, _histogram(pixels)))
            except (ImageError, OSError) as exc:
                found.append((str(exc), _NOTHING))
        return found

    with Progress("packing images", len(samples)) as progress:
        for chunk, found in in_threads(work, _chunks(samples)):
            yield from zip(chunk, found, strict=True)
            progress.advance(len(chunk))


def fingerprints(files: Sequence[Path], known_in: Path) -> list[str]:
    """SHA-256 in hex of each file.

    Args:
        known_in: a file that stores the hashes by path, size and modification time, so that the
            next call reads only new files.
    """
    try:
        known: dict[str, list[Any]] = json.loads(known_in.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    stats = [file.stat() for file in files]
    stamps = [[stat.st_size, stat.st_mtime_ns, stat.st_ino] for stat in stats]
    new = [
        number
        for number, (file, stamp) in enumerate(zip(files, stamps, strict=True))
        if known.get(str(file), [None])[:-1] != stamp
    ]
    if new:
        with Progress("reading files", sum(stats[number].st_size for number in new)) as progress:
            for chunk, digests in in_threads(
                lambda chunk: [sha256_of(files[number]) for number in chunk], _chunks(new)
            ):
                for number, digest in zip(chunk, digests, strict=True):
                    known[str(files[number])] = [*stamps[number], digest]
                progress.advance(sum(stats[number].st_size for number in chunk))
        write_whole(known_in, json.dumps({str(file): known[str(file)] for file in files}))
    return [known[str(file)][-1] for file in files]


T = TypeVar("T")
R = TypeVar("R")


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))


def in_threads(work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
    """Each item with its result, in order; computed a few items ahead of the consumer."""
    threads = available_cpus()
    with ThreadPoolExecutor(threads) as executor:
        waiting: deque[Any] = deque()
        for item in items:
            waiting.append((item, executor.submit(work, item)))
            if len(waiting) > 4 * threads:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()


def digest_of(value: Any) -> str:
    """SHA-256 in hex of a value that JSON can represent; equal values give equal digests."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def shown_path(path: Path, root: Path) -> str:
    """The path relative to `root` as printable text: bytes that are not UTF-8 become ``\\xNN``."""
    return os.fsencode(os.path.relpath(path, root)).decode("utf-8", "backslashreplace")
