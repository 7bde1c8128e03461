"""Edited models: every check of the artifact passes, and each is as good or bad as it is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from common.model.artifact import INPUT
from infra.twin import models
from serve.inference.predictor import Predictor

GOOD = Path(os.environ.get("MODEL", "ml/bundled/model.onnx")).read_bytes()


def images(count: int, least: int = 0, below: int = 100) -> NDArray[np.uint8]:
    shape = (count, 32, 32, 3)
    return np.random.default_rng(1).integers(least, below, shape, np.uint8)


def predictor(artifact: bytes) -> Predictor:
    """Checked against the artifact's own images, as when the service starts."""
    found = Predictor(artifact)
    found.check()
    return found


def test_a_rounded_model_answers_nearly_the_same() -> None:
    good, other = predictor(GOOD), predictor(models.rounded(GOOD))
    some = images(64, below=256)
    difference = np.abs(good(some) - other(some)).max()
    assert 0 < difference < 0.05
    assert other.version != good.version


def test_a_mislabelled_model_gives_the_same_numbers_other_names() -> None:
    good, bad = predictor(GOOD), predictor(models.mislabelled(GOOD))
    some = images(8)
    np.testing.assert_allclose(good(some), bad(some), atol=1e-6)
    shifted = good.metadata.classes[1:] + good.metadata.classes[:1]
    assert bad.metadata.classes == shifted


def test_a_slow_model_gives_the_same_answers_later(tmp_path: Path) -> None:
    slow = models.slow(GOOD, products=7)
    good, bad = predictor(GOOD), predictor(slow)
    some = images(1)
    np.testing.assert_allclose(good(some), bad(some), atol=1e-6)
    assert bad.version != good.version
    # The optimiser has not taken the products out, though nobody looks at what they give.
    assert products_run(slow, some, tmp_path) == products_run(GOOD, some, tmp_path) + 7


def products_run(artifact: bytes, some: NDArray[np.uint8], folder: Path) -> int:
    """Matrix products that onnxruntime's own profile of one call names."""
    options = ort.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    session = ort.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
    session.run(None, {INPUT: some})
    events = json.loads(Path(session.end_profiling()).read_text())
    return sum(
        event["name"].endswith("_kernel_time") and event["args"]["op_name"] == "MatMul"
        for event in events
        if event["cat"] == "Node"
    )


def test_a_crashing_model_answers_dark_images_as_before() -> None:
    good, bad = predictor(GOOD), predictor(models.crashing(GOOD))
    some = images(8)
    np.testing.assert_allclose(good(some), bad(some), atol=1e-6)


@pytest.mark.parametrize(("difference", "code"), [(-1, 0), (0, -8), (60, -8)])
def test_a_crashing_model_ends_the_process_from_its_brightness_on(
    tmp_path: Path, difference: int, code: int
) -> None:
    place = tmp_path / "model.onnx"
    place.write_bytes(models.crashing(GOOD))
    limit = models.crash_brightness(predictor(GOOD).metadata)
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
import numpy as np
from pathlib import Path
from serve.inference.predictor import Predictor
model = Predictor.load(Path({str(place)!r}))
model(np.full((1, 32, 32, 3), {limit + difference}, np.uint8))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert done.returncode == code, done.stderr


def test_brightness_is_the_mean_of_each_image() -> None:
    some = np.stack([np.full((32, 32, 3), value, np.uint8) for value in (0, 7, 255)])
    assert models.brightness(some).tolist() == [0, 7, 255]
