"""ml/data/duplicates.py: duplicates put there, and look-alikes that are none."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Resampling

from ml.artifact.evaluation import Labelled
from ml.data.duplicates import class_counts, find_duplicates


def pictures(count: int, seed: int) -> Labelled:
    """(count, 32, 32, 3): coarse random patches under fine grain."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 200, (count, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2)
    grain = random.integers(0, 50, (count, 32, 32, 3))
    return Labelled((coarse + grain).astype(np.uint8), random.integers(0, 10, count))


@pytest.fixture(scope="module")
def train() -> Labelled:
    return pictures(60, seed=0)


def test_fresh_pictures_are_no_duplicates(train: Labelled) -> None:
    found = find_duplicates(train, pictures(40, seed=1))
    assert (found.exact, found.near, found.test_images) == (0, (), 40)
    assert found.elapsed_ms > 0


def test_copies_darker_mirrored_and_compressed_are_found(train: Labelled) -> None:
    test = pictures(6, seed=1)
    grain = np.random.default_rng(2).normal(0, 4, (32, 32, 3))
    test.images[1] = train.images[10]
    test.images[2] = train.images[20] // 2 + 30
    test.images[3] = train.images[30][:, ::-1]
    test.images[4] = (train.images[40] + grain).clip(0, 255).astype(np.uint8)
    found = find_duplicates(train, test)
    assert found.exact == 1
    assert {(pair.test, pair.train, pair.mirrored) for pair in found.near} == {
        (1, 10, False),
        (2, 20, False),
        (3, 30, True),
        (4, 40, False),
    }
    assert found.near[0].correlation >= found.near[-1].correlation > 0.9
    assert found.share == pytest.approx(4 / 6)


def test_the_same_scene_with_other_detail_is_no_duplicate(train: Labelled) -> None:
    test = pictures(1, seed=1)
    coarse = train.images[5].reshape(8, 4, 8, 4, 3).mean(axis=(1, 3), keepdims=True)
    grain = np.random.default_rng(3).normal(0, 14, (8, 4, 8, 4, 3))
    test.images[0] = (coarse + grain).clip(0, 255).reshape(32, 32, 3)
    assert find_duplicates(train, test).near == ()


def test_a_duplicate_with_another_label_says_so(train: Labelled) -> None:
    test = Labelled(train.images[:2].copy(), train.labels[:2] + np.array([0, 1]))
    assert [pair.same_label for pair in find_duplicates(train, test).near] == [True, False]


def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Grey (1797, 8, 8) and their labels, from scikit-learn's file: its import takes seconds."""
    package = find_spec("sklearn")
    assert package
    assert package.submodule_search_locations
    file = Path(package.submodule_search_locations[0], "datasets/data/digits.csv.gz")
    with gzip.open(file) as table:
        rows = np.loadtxt(table, delimiter=",")
    return (rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), rows[:, -1].astype(int)


@pytest.mark.parametrize("side", [8, 16, 32])
def test_digits_are_alike_and_no_copies_of_each_other(side: int) -> None:
    pixels, labels = digits()
    grey = (Image.fromarray(one).resize((side, side), Resampling.BILINEAR) for one in pixels)
    images = np.stack([np.asarray(image)[..., None].repeat(3, axis=-1) for image in grey])
    train = Labelled(images[300:], labels[300:])
    test = Labelled(images[:300].copy(), labels[:300])
    test.images[:20] = train.images[:20] // 2 + 40
    found = find_duplicates(train, test)
    assert {pair.test for pair in found.near} >= set(range(20))
    assert len(found.near) < 30


def test_a_test_set_that_is_a_copy_of_the_training_set_is_found(train: Labelled) -> None:
    test = Labelled(train.images // 2 + 30, train.labels)
    assert find_duplicates(train, test).share == 1.0


def test_flat_pictures_are_like_nothing() -> None:
    flat = Labelled(np.full((3, 32, 32, 3), 90, np.uint8), np.zeros(3, np.int64))
    found = find_duplicates(flat, flat)
    assert (found.exact, found.near) == (3, ())


def test_progress_ends_with_everything(train: Labelled) -> None:
    heard = list[float]()
    find_duplicates(train, pictures(3, seed=1), heard.append)
    assert heard == [1.0]


def test_classes_are_counted_also_those_without_images() -> None:
    labels = np.array([0, 2, 2])
    assert class_counts(Labelled(np.zeros((3, 1, 1, 3), np.uint8), labels), 4) == (1, 0, 2, 0)
