"""ml/drift/observed.py: image files of every kind, whole and damaged."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ml.drift.observed import InputError, image_files, read_image, read_images
from tests.ml.drift.tiny_artifact import scenes


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


def test_an_image_of_the_models_size_keeps_every_pixel(tmp_path: Path) -> None:
    image = scenes(1)[0]
    np.testing.assert_array_equal(read_image(save(image, tmp_path / "a.png"), (8, 8)), image)


def test_other_sizes_and_modes_become_rgb_of_the_models_size(tmp_path: Path) -> None:
    wide = np.full((20, 50), 77, np.uint8)
    pixels = read_image(save(wide, tmp_path / "grey.png"), (8, 8))
    np.testing.assert_array_equal(pixels, np.full((8, 8, 3), 77))


def test_what_is_transparent_lies_on_white(tmp_path: Path) -> None:
    clear = np.zeros((8, 8, 4), np.uint8)
    assert read_image(save(clear, tmp_path / "clear.png"), (8, 8)).min() == 255


def test_a_damaged_file_is_reported_and_the_rest_is_read(tmp_path: Path) -> None:
    whole = save(scenes(1)[0], tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:60])
    (tmp_path / "text.png").write_text("hello")
    read = {path.name: pixels for path, pixels in read_images(image_files(tmp_path), (8, 8))}
    assert isinstance(read["whole.png"], np.ndarray)
    assert "unreadable" in str(read["cut.png"])
    assert "unreadable (UnidentifiedImageError)" in str(read["text.png"])


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no image"):
        image_files(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        image_files(tmp_path / "missing")
