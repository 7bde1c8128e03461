"""The golden set: labelled images in one ZIP file, in a reproducible order for each release.

The file is a ZIP without compression: ``golden.json``, and an image file for each entry of its list
`images`, which has {"file": "00001", "label": "cat"}. `name` says where they come from.
"""

import json
import random
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

INDEX = "golden.json"


class GoldenSetError(ValueError):
    """A file is not a golden set."""


@dataclass(frozen=True)
class GoldenImage:
    """An image file's bytes and its class name."""

    data: bytes
    label: str


@dataclass(frozen=True)
class GoldenSet:
    """Labelled images and the name of their source."""

    name: str
    images: tuple[GoldenImage, ...]

    @property
    def labels(self) -> set[str]:
        """The class names of its images."""
        return {image.label for image in self.images}

    def order(self, release: str) -> list[GoldenImage]:
        """Shuffled by the release's id, so that a resumed run knows which images it has sent."""
        shuffled = list(self.images)
        random.Random(release).shuffle(shuffled)
        return shuffled


def read_golden_set(path: Path) -> GoldenSet:
    """Reads the file.

    Raises:
        GoldenSetError: it is not one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            index = json.loads(archive.read(INDEX))
            images = tuple(
                GoldenImage(archive.read(item["file"]), str(item["label"]))
                for item in index["images"]
            )
            return GoldenSet(str(index["name"]), images)
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError) as exc:
        raise GoldenSetError(
            f"{path} is not a golden set ({exc}): "
            "`bazel build //infra/release:golden_set` makes one"
        ) from exc


def write_golden_set(path: Path, name: str, images: Sequence[GoldenImage]) -> None:
    """Writes a golden set; the same images give the same bytes."""
    index = {
        "name": name,
        "images": [
            {"file": f"{place:05d}", "label": image.label} for place, image in enumerate(images)
        ],
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(INDEX), json.dumps(index, indent=0))
        for place, image in enumerate(images):
            archive.writestr(zipfile.ZipInfo(f"{place:05d}"), image.data)
