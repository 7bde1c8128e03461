"""Captured answers of a made-up model about images whose class shows in their colour."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.captures import Capture, Captures
from common.objects import FolderStore
from ml.data.cifar10 import CLASSES

NOON = 1_790_000_000.0  # 2026-09-21 14:13:20 UTC
VERSION = "ab" * 32
COLOURS = np.random.default_rng(7).integers(40, 216, (len(CLASSES), 1, 1, 3))  # of small_dataset


def request_id(number: int) -> str:
    return f"{number:032x}"


def coloured(label: int, seed: int, edge: int = 32) -> NDArray[np.uint8]:
    """(edge, edge, 3): an image of a class."""
    noise = np.random.default_rng(seed).integers(-40, 40, (edge, edge, 3))
    return (COLOURS[label] + noise).astype(np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def answer(
    number: int,
    *,
    label: int | None = None,
    sure: float = 0.8,
    classes: int = len(CLASSES),
    pixels: NDArray[np.uint8] | None = None,
    at: float | None = None,
    probability: float = 0.5,
) -> Capture:
    """The answer to request `number`, which shows and says class `label`."""
    label = number % classes if label is None else label
    rest = (1 - sure) / (classes - 1)
    probabilities = tuple(sure if one == label else rest for one in range(classes))
    image = png(coloured(label % len(CLASSES), number) if pixels is None else pixels)
    time = NOON + number if at is None else at
    return Capture(request_id(number), 0, time, VERSION, probabilities, probability, image)


def filled(folder: Path, rows: list[Capture]) -> Captures:
    """A store with one batch of these answers."""
    captures = Captures(FolderStore(folder))
    assert captures.write("w", 0, rows, max(row.time for row in rows))
    return captures
