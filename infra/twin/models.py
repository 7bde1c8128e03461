"""The candidate models of the twin, as image layers that differ in nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from common.golden import GoldenImage, read_golden_set, write_golden_set
from common.model.artifact import read_artifact
from infra.twin import edits
from infra.twin.image.store import with_model

_FAULTS: Mapping[str, Callable[[bytes], bytes]] = {
    "crashing": edits.crashing,
    "mislabelled": edits.mislabelled,
    "slow": edits.slow,
}


@dataclass(frozen=True)
class Candidate:
    """An image layout to release; `fails` is the share of callers' images at which it crashes."""

    name: str
    layout: Path
    good: bool
    fails: float = 0.0


def candidates(
    image: Path, first: Path, good: Path, bad: tuple[str, ...], bright: float, folder: Path
) -> list[Candidate]:
    """The first release, the good one, and the bad ones, which are made of the good one's model.

    Args:
        bright: share of the callers' images at which the crashing one ends its process.
    """
    artifact = good.read_bytes()
    made = [
        _candidate("first release", image, first, folder / "first", good=True),
        _candidate("good release", image, good, folder / "good", good=True),
    ]
    for name in bad:
        model = folder / f"{name}.onnx"
        model.write_bytes(_FAULTS[name](artifact))
        fails = bright if name == "crashing" else 0.0
        made.append(_candidate(name, image, model, folder / name, good=False, fails=fails))
    return made


def _candidate(
    name: str, image: Path, model: Path, target: Path, good: bool, fails: float = 0.0
) -> Candidate:
    target.mkdir(parents=True)
    with_model(image, model, target)
    return Candidate(name, target, good, fails)


def write_dark_golden_set(callers: Path, artifact: bytes, target: Path) -> float:
    """The callers' images without those that the crashing model cannot stand; the share of these.

    So that golden images do not find it, but what Lambda counts: a fault that nobody thought of.
    """
    images = read_golden_set(callers)
    limit = edits.crash_brightness(read_artifact(artifact))
    dark = [image for image in images.images if _brightness(image) < limit]
    write_golden_set(target, f"{images.name}, mean brightness below {limit}", dark)
    return 1 - len(dark) / len(images.images)


def _brightness(image: GoldenImage) -> int:
    with Image.open(BytesIO(image.data)) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    return int(edits.brightness(pixels[None])[0])
