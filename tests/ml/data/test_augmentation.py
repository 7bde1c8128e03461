"""Augmentations keep what they promise to keep, on any images."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor
from torch.nn import functional as F

from ml.data.augmentation import (
    Augmentation,
    alternating_flip,
    augmented_samples,
    random_cutout,
    random_shift,
    reflect_border,
    resize,
)


def _images(count: int = 64, size: int = 8) -> Tensor:
    return torch.randint(
        0, 256, (count, 3, size, size), generator=Generator().manual_seed(3)
    ).byte()


def test_border_is_what_pytorch_calls_reflection() -> None:
    images = _images()
    expected = F.pad(images.float(), (3, 3, 3, 3), mode="reflect")
    assert torch.equal(reflect_border(images, 3).float(), expected)


@given(max_shift=st.integers(1, 3), seed=st.integers(0, 99))
def test_every_shifted_image_is_a_window_of_its_own_padded_image(max_shift: int, seed: int) -> None:
    images = _images(16)
    padded = reflect_border(images, max_shift)
    windows = padded.unfold(2, 8, 1).unfold(3, 8, 1).permute(0, 2, 3, 1, 4, 5)
    shifted = random_shift(images, max_shift, Generator().manual_seed(seed))
    matches = (windows == shifted[:, None, None]).flatten(3).all(3)
    assert matches.flatten(1).any(1).all()


def test_shifts_reach_every_direction() -> None:
    images = _images(2000)
    shifted = random_shift(images, 1, Generator().manual_seed(0))
    still = (shifted == images).flatten(1).all(1).float().mean().item()
    assert still == pytest.approx(1 / 9, abs=0.03)


def test_no_shift_leaves_the_images_alone() -> None:
    images = _images()
    assert random_shift(images, 0, Generator()) is images


@given(epoch=st.integers(0, 50), seed=st.integers(0, 99))
def test_two_epochs_show_each_image_once_each_way(epoch: int, seed: int) -> None:
    images = _images()
    first, second = (alternating_flip(images, epoch + i, seed) for i in (0, 1))
    assert torch.equal(second, first.flip(3))
    assert torch.equal(first, alternating_flip(images, epoch + 2, seed))


def test_about_half_of_the_images_are_mirrored() -> None:
    images = _images(2000)
    mirrored = (alternating_flip(images, 0, 1) != images).flatten(1).any(1).float().mean().item()
    assert mirrored == pytest.approx(0.5, abs=0.05)


def test_cutout_blanks_one_square_of_the_given_size() -> None:
    images = torch.full((32, 3, 8, 8), 100, dtype=torch.uint8)
    images[:, :, ::2] = 50  # so that the mean, 75, is no pixel's value
    cut = random_cutout(images, 3, Generator().manual_seed(0))
    assert ((cut == 75).sum((1, 2, 3)) == 3 * 9).all()
    assert random_cutout(images, 0, Generator()) is images


def test_resizing_to_the_same_size_copies_nothing() -> None:
    images = torch.rand(2, 3, 8, 12)
    assert resize(images, (8, 12)) is images
    for size in ((6, 6), (8, 6), (6, 12), (16, 12)):
        assert resize(images, size).shape == (2, 3, *size)
    assert resize(images, (4, 6)).mean().item() == pytest.approx(images.mean().item(), abs=0.02)


_OFF = {"mirror": False, "shift": 0}
_WAYS: dict[str, dict[str, float]] = {
    "mirror": {"mirror": True},
    "shift": {"shift": 2},
    "cutout": {"cutout": 3},
    "crop": {"crop": 0.3},
    "rotation": {"rotation": 20.0},
    "colour": {"colour": 0.4},
    "randaugment": {"randaugment": 2},
    "mixup": {"mixup": 0.4},
    "cutmix": {"cutmix": 1.0},
}


def _augmented(images: Tensor, seed: int = 0, **ways: float) -> tuple[Tensor, Tensor]:
    """A batch of images and labels as training would see it."""
    augmentation = Augmentation(**(_OFF | ways))  # type: ignore[arg-type]
    generator = Generator().manual_seed(seed)
    images = augmentation.of_epoch(images, 0, seed, generator)
    images, labels = augmentation.of_batch(images, generator), torch.arange(len(images)) % 10
    if augmentation.mixes:
        return augmentation.mixed(images.float(), labels, 10, generator)
    return images, labels


@pytest.mark.parametrize("way", _WAYS)
def test_each_way_has_a_switch_and_follows_the_generator_alone(way: str) -> None:
    images = _images(32, 12)
    before = torch.get_rng_state()
    first, again = (_augmented(images, **_WAYS[way]) for _ in range(2))  # type: ignore[arg-type]
    other, _ = _augmented(images, seed=1, **_WAYS[way])
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other)
    changed = (first[0] != images).flatten(1).any(1).float().mean().item()
    assert changed > (0.3 if way == "mirror" else 0.6)


def test_without_any_way_the_images_are_the_very_same() -> None:
    images = _images()
    assert _augmented(images)[0] is images


def test_rotation_fills_the_corners_by_reflection() -> None:
    images = torch.full((16, 3, 32, 32), 200, dtype=torch.uint8)
    rotated, _ = _augmented(images, rotation=30.0)
    assert rotated.min() >= 199


@pytest.mark.parametrize("way", ["mixup", "cutmix"])
def test_labels_are_mixed_in_the_proportion_of_the_images(way: str) -> None:
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 8, 8)
    mixed, labels = _augmented(images, seed=5, **{way: 1.0})
    assert labels.shape == (10, 10)
    torch.testing.assert_close(labels.sum(1), torch.ones(10))
    assert (labels > 0).sum(1).tolist() == [2] * 10
    expected = (labels * torch.arange(10)).sum(1)  # each image's value is its class
    torch.testing.assert_close(mixed.mean((1, 2, 3)), expected)


def test_a_batch_holds_many_draws() -> None:
    images = _images(1, 12).expand(64, 3, 12, 12)
    seen = {image.numpy().tobytes() for image in _augmented(images, rotation=20.0)[0]}
    assert len(seen) == 64 // 8


def test_samples_show_each_image_as_it_is_and_then_changed() -> None:
    images, augmentation = _images(3), Augmentation(mirror=True, rotation=10, mixup=0.4)
    samples = augmented_samples(images, torch.arange(3), augmentation, classes=10, epochs=4)
    assert samples.shape == (3, 5, 3, 8, 8)
    assert samples.dtype == torch.uint8
    assert torch.equal(samples[:, 0], images)
    assert not any(torch.equal(samples[:, epoch], images) for epoch in range(1, 5))


@pytest.mark.parametrize("values", [{"shift": 8}, {"cutout": 9}])
def test_what_does_not_fit_the_images_is_refused(values: dict[str, int]) -> None:
    Augmentation(shift=7, cutout=8).check(8, 10)
    with pytest.raises(ValueError, match=r"augmentation\.(shift|cutout)="):
        Augmentation(**values).check(8, 10)  # type: ignore[arg-type]
