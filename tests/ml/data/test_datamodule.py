"""Epochs as pure functions of seed and number, splits that do not overlap, the size schedule."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from ml.data.datamodule import CIFAR10, ImageData, Images, size_schedule
from tests.ml.data.small_dataset import write_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cifar10")
    write_dataset(folder, train=200, test=50)
    return folder


@pytest.fixture
def make(folder: Path) -> Callable[..., CIFAR10]:
    def make_data(**changes: object) -> CIFAR10:
        values = {"batch_size": 32, "validation_size": 50, "epochs": 4, "seed": 0, "folder": folder}
        data = CIFAR10(**(values | changes))  # type: ignore[arg-type]
        alone = SimpleNamespace(current_epoch=0, global_rank=0, world_size=1)
        data.trainer = alone  # type: ignore[assignment]
        return data

    return make_data


def _epoch(data: ImageData, epoch: int) -> list[Tensor]:
    data.trainer.current_epoch = epoch  # type: ignore[union-attr, misc]
    return [tensor for batch in data.train_dataloader() for tensor in batch]


@pytest.mark.parametrize("mirror", [True, False])
def test_an_epoch_is_the_same_however_one_gets_there(
    make: Callable[..., CIFAR10], mirror: bool
) -> None:
    straight, resumed = make(mirror=mirror), make(mirror=mirror)
    for epoch in range(3):
        unbroken = _epoch(straight, epoch)
    assert all(map(torch.equal, unbroken, _epoch(resumed, 2)))


def _tensor(images: Images) -> Tensor:
    """The pixels of a set that is held in memory."""
    assert isinstance(images.pixels, Tensor)
    return images.pixels


def test_epochs_and_seeds_differ(make: Callable[..., CIFAR10]) -> None:
    first = _epoch(make(), 0)
    assert not torch.equal(first[0], _epoch(make(), 1)[0])
    assert not torch.equal(first[0], _epoch(make(seed=1), 0)[0])


def test_batches_are_full_and_the_rest_of_the_epoch_is_left_out(
    make: Callable[..., CIFAR10],
) -> None:
    data = make()
    batches = list(data.train_dataloader())
    assert len(batches) == len(data.train_dataloader()) == 150 // 32
    assert {tuple(images.shape) for images, _ in batches} == {(32, 3, 32, 32)}


def test_without_augmentation_an_epoch_holds_the_training_images_once(
    make: Callable[..., CIFAR10],
) -> None:
    data = make(max_shift=0, batch_size=150)
    ((images, labels),) = list(data.train_dataloader())
    train = data.train_images()
    expected = train.normalise(_tensor(train))
    sums = sorted(images.abs().sum((1, 2, 3)).tolist())
    assert sums == pytest.approx(sorted(expected.abs().sum((1, 2, 3)).tolist()), rel=1e-5)
    assert torch.bincount(labels).tolist() == torch.bincount(train.labels).tolist()


def _arrows(count: int = 400) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Class 0 is bright on the left of a random column, class 1 on its right: mirrored, each is the
    other."""
    chance, labels = np.random.default_rng(0), np.arange(count) % 2
    pixels = np.full((count, 3, 32, 32), 60, dtype=np.uint8)
    for image, label, column in zip(pixels, labels, chance.integers(10, 22, count), strict=True):
        image[:, :, slice(None, column) if label == 0 else slice(column, None)] = 200
    return pixels, labels


@pytest.mark.parametrize(("mirror", "mistaken"), [(False, 0.0), (True, 0.5)])
def test_arrows_keep_their_direction_only_where_nothing_is_mirrored(
    make: Callable[..., CIFAR10],
    monkeypatch: pytest.MonkeyPatch,
    mirror: bool,
    mistaken: float,
) -> None:
    monkeypatch.setattr(CIFAR10, "classes", ("left", "right"))
    monkeypatch.setattr(CIFAR10, "read", lambda self, part: _arrows())
    data = make(mirror=mirror, validation_size=40, max_shift=2, cutout=4)
    wrong = []
    for epoch in range(4):
        batches = _epoch(data, epoch)
        for images, labels in zip(batches[::2], batches[1::2], strict=True):
            seen = images[..., 0].mean((1, 2)) < images[..., -1].mean((1, 2))
            wrong.append((seen != labels.bool()).float().mean().item())
    assert np.mean(wrong) == pytest.approx(mistaken, abs=0.05)


def test_without_mirroring_each_image_is_its_original_up_to_a_shift(
    make: Callable[..., CIFAR10],
) -> None:
    data = make(mirror=False, max_shift=0, batch_size=150)
    images, _ = _epoch(data, 1)
    train = data.train_images()
    originals = {row.numpy().tobytes() for row in train.normalise(_tensor(train))}
    assert {row.numpy().tobytes() for row in images} == originals


def test_validation_is_carved_from_train_in_equal_classes_and_shares_no_image_with_it(
    make: Callable[..., CIFAR10],
) -> None:
    data = make()
    train, validation = data.train_images(), data.validation_images()
    assert torch.bincount(validation.labels).tolist() == [5] * 10
    rows = torch.cat((_tensor(train), _tensor(validation))).flatten(1)
    assert len(torch.unique(rows, dim=0)) == 200


def test_a_part_of_the_training_images_can_be_asked_for(make: Callable[..., CIFAR10]) -> None:
    whole, part = make(), make(train_size=100)
    assert torch.bincount(part.train_images().labels).tolist() == [10] * 10
    assert torch.equal(_tensor(part.validation_images()), _tensor(whole.validation_images()))


def test_a_batch_larger_than_the_training_set_is_refused(make: Callable[..., CIFAR10]) -> None:
    with pytest.raises(ValueError, match=r"data\.batch_size=151 .*150"):
        make(batch_size=151).train_images()


def test_normalisation_is_the_published_one(make: Callable[..., CIFAR10]) -> None:
    images = make().test_images()
    pixels = _tensor(images)[:3]
    expected = (pixels.numpy() / 255 - np.reshape(CIFAR10.mean, (3, 1, 1))) / np.reshape(
        CIFAR10.std, (3, 1, 1)
    )
    np.testing.assert_allclose(images.normalise(pixels).numpy(), expected, atol=1e-5)


def test_images_grow_with_the_schedule(make: Callable[..., CIFAR10]) -> None:
    data = make(sizes=[20, 24, 32], size_milestones=[0.5, 0.75])
    assert [_epoch(data, epoch)[0].shape[-1] for epoch in range(4)] == [20, 20, 24, 32]


class _Photos(ImageData):
    """Sixty images of whatever size."""

    classes = ("dark", "bright")
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    digest = "0" * 64

    def __init__(self, size: tuple[int, int], **values: object) -> None:
        self.image_size = size
        kept: dict[str, object] = {"batch_size": 10, "validation_size": 20, "epochs": 4, "seed": 0}
        super().__init__(folder=".", **(kept | values))  # type: ignore[arg-type]
        alone = SimpleNamespace(current_epoch=0, global_rank=0, world_size=1)
        self.trainer = alone  # type: ignore[assignment]

    def read(self, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        pixels = np.random.default_rng(0).integers(0, 256, (60, 3, *self.image_size), np.uint8)
        return pixels, np.arange(60) % 2

    def shapes(self) -> list[tuple[int, ...]]:
        """Height and width by epoch in training, then in validation and test."""
        trained = [_epoch(self, epoch)[0] for epoch in range(4)]
        ((validated, _),), ((tested, _),) = self.val_dataloader(), self.test_images()
        return [tuple(images.shape[2:]) for images in (*trained, validated, tested)]


@pytest.mark.parametrize("size", [(64, 64), (24, 32), (32, 24), (7, 40)])
def test_images_are_trained_at_the_size_at_which_they_are_judged(size: tuple[int, int]) -> None:
    assert _Photos(size).shapes() == [size] * 6


@pytest.mark.parametrize("sizes", [[12, 24], [0.5, 1.0], [0.5, 24]])
@pytest.mark.parametrize("tall", [False, True])
def test_both_edges_grow_in_the_images_own_proportion(sizes: list[float], tall: bool) -> None:
    small, own = ((16, 12), (32, 24)) if tall else ((12, 16), (24, 32))
    found = _Photos(own, sizes=sizes, size_milestones=[0.5]).shapes()
    assert found == [small, small, own, own, own, own]


def test_training_resizes_a_photograph_as_its_whole_not_one_edge_of_it() -> None:
    data = _Photos((24, 32), sizes=[12], max_shift=0, mirror=False, batch_size=40)
    (batch, labels) = _epoch(data, 0)
    train = data.train_images()
    expected = torch.nn.functional.interpolate(
        train.normalise(_tensor(train)), size=(12, 16), mode="bilinear", antialias=True
    )
    means = batch.mean((1, 2, 3)).sort().values
    torch.testing.assert_close(means, expected.mean((1, 2, 3)).sort().values)
    assert torch.equal(labels.sort().values, train.labels.sort().values)


@pytest.mark.parametrize("size", [0, -8, 0.0, 12.5, 25, 32, float("nan"), "large", True])
def test_a_size_that_the_images_do_not_have_is_refused(size: object) -> None:
    with pytest.raises(ValueError, match=rf"data\.sizes has {size}: .*24 × 32"):
        _Photos((24, 32), sizes=[size])


def test_epochs_past_the_schedule_keep_its_last_size() -> None:
    data = _Photos((24, 24), sizes=[12, 24], size_milestones=[0.5], epochs=2)
    assert [edge for edge, _ in data.shapes()] == [12, 24, 24, 24, 24, 24]


@given(epochs=st.integers(1, 60), share=st.floats(0.01, 0.99))
def test_schedule_covers_every_epoch_and_never_shrinks(epochs: int, share: float) -> None:
    schedule = size_schedule([24, 32], [share], epochs, (32, 32))
    assert len(schedule) == epochs
    assert schedule == sorted(schedule)


@pytest.mark.parametrize(
    ("sizes", "milestones"),
    [([24, 32], []), ([32], [0.5]), (None, [0.5]), ([20, 24, 32], [0.6, 0.3]), ([24, 32], [1.0])],
)
def test_schedule_refuses_milestones_that_do_not_fit(
    sizes: list[int] | None, milestones: list[float]
) -> None:
    with pytest.raises(ValueError, match=r"data\.size_milestones must"):
        size_schedule(sizes, milestones, 10, (32, 32))


def test_a_balanced_sampler_shows_each_class_equally_often_and_repeats_itself(
    make: Callable[..., CIFAR10], monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = np.random.default_rng(0)
    pixels = chance.integers(0, 256, (2000, 3, 32, 32), dtype=np.uint8)
    labels = np.minimum(np.arange(2000) // 20, 9)  # 20 images of most classes, 1,820 of the last
    monkeypatch.setattr(CIFAR10, "read", lambda self, part: (pixels, labels))
    made = (make(sampler="balanced", validation_size=0.1, batch_size=450) for _ in range(2))
    first, second = (_epoch(data, 1) for data in made)
    assert all(map(torch.equal, first, second))
    shares = torch.bincount(torch.cat(first[1::2])) / 1800
    assert shares.tolist() == pytest.approx([0.1] * 10, abs=0.03)
