"""ml/drift/observed.py: image files of every kind, whole and damaged."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.images import Codec
from ml.drift.observed import InputError, image_files, read_images
from tests.ml.drift.tiny_artifact import scenes

CODEC = Codec((8, 8), max_pixels=10_000)


def save(pixels: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def test_images_below_the_folder_are_found_in_order_and_others_left_alone(tmp_path: Path) -> None:
    image = scenes(1)[0]
    for name in ("b.png", "a/c.JPG", ".hidden/d.png", ".e.png"):
        save(image, tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    found = [str(path.relative_to(tmp_path)) for path in image_files(tmp_path)]
    assert found == ["a/c.JPG", "b.png"]


def test_images_become_what_the_service_sees(tmp_path: Path) -> None:
    wide = Image.fromarray(np.arange(5000, dtype=np.uint16).reshape(50, 100) * 13)  # 16 bits
    wide.save(path := tmp_path / "wide.png")
    [(_, pixels)] = read_images([path], CODEC)
    np.testing.assert_array_equal(pixels, CODEC.decode(path.read_bytes()))


def test_a_damaged_file_is_reported_and_the_rest_is_read(tmp_path: Path) -> None:
    whole = save(scenes(1)[0], tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:60])
    (tmp_path / "text.png").write_text("hello")
    read = {path.name: pixels for path, pixels in read_images(image_files(tmp_path), CODEC)}
    assert isinstance(read["whole.png"], np.ndarray)
    assert isinstance(read["cut.png"], str)
    assert isinstance(read["text.png"], str)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match=re.escape(str(folder))):
            image_files(folder)
