"""Augmentations keep what they promise to keep, on any images."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor
from torch.nn import functional as F

from ml.data.augmentation import (
    alternating_flip,
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
