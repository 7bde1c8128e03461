"""Augmentation of whole epochs at once: tensors in, tensors out, on whatever device they live."""

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


def random_shift(images: Tensor, max_shift: int, generator: Generator) -> Tensor:
    """Moves each image by up to ``max_shift`` pixels each way; the border is filled by reflection.

    Args:
        images: (N, C, H, W), any dtype.
        max_shift: pixels, 0 leaves the images as they are.
        generator: draws two shifts an image, on the CPU.

    Source: the "crop after padding by reflection" of He et al. 2015, arXiv:1512.03385, section 4.2.
    """
    if max_shift == 0:
        return images
    height, width = images.shape[-2:]
    choices = 2 * max_shift + 1
    shifts = torch.randint(choices * choices, (len(images),), generator=generator)
    padded = reflect_border(images, max_shift)
    shifted = torch.empty_like(images)
    # One gather for each of the few shifts is far cheaper than one slice for each of the images.
    for shift in range(choices * choices):
        rows = (shifts == shift).nonzero().squeeze(1).to(images.device)
        top, left = divmod(shift, choices)
        shifted[rows] = padded[rows, :, top : top + height, left : left + width]
    return shifted


def reflect_border(images: Tensor, width: int) -> Tensor:
    """(N, C, H, W) of any dtype -> (N, C, H + 2·width, W + 2·width), mirrored at the edges."""
    for dim in (2, 3):
        size = images.shape[dim]
        index = torch.arange(-width, size + width, device=images.device).abs()
        index = torch.where(index < size, index, 2 * (size - 1) - index)
        images = images.index_select(dim, index)
    return images


def alternating_flip(images: Tensor, epoch: int, seed: int) -> Tensor:
    """Mirrors a random half of the images in even epochs and the other half in odd ones.

    Every two epochs show every image both ways, where independent flips would repeat half of them.

    Args:
        images: (N, C, H, W), always in the same order: image i keeps its turn by its position.

    Source: Jordan 2024, arXiv:2404.00498, section 3.6.
    """
    first = torch.rand(len(images), generator=Generator().manual_seed(seed)) < 0.5
    mirrored = (first if epoch % 2 == 0 else ~first).nonzero().squeeze(1).to(images.device)
    flipped = images.clone()
    flipped[mirrored] = images[mirrored].flip(3)
    return flipped


def random_cutout(images: Tensor, size: int, generator: Generator) -> Tensor:
    """Blanks a square of ``size`` pixels at a random place in each image with the mean grey of the
    batch.

    Args:
        images: (N, C, H, W).
        size: edge in pixels, 0 leaves the images as they are.

    Source: DeVries and Taylor 2017, arXiv:1708.04552.
    """
    if size == 0:
        return images
    height, width = images.shape[-2:]
    top = torch.randint(height - size + 1, (len(images), 1, 1, 1), generator=generator)
    left = torch.randint(width - size + 1, (len(images), 1, 1, 1), generator=generator)
    rows = torch.arange(height).view(1, 1, -1, 1)
    columns = torch.arange(width).view(1, 1, 1, -1)
    hole = (rows >= top) & (rows < top + size) & (columns >= left) & (columns < left + size)
    return images.masked_fill(hole.to(images.device), int(images.float().mean()))


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, C, H, W) float -> (N, C, *size) by antialiased bilinear interpolation.

    Args:
        size: height and width in pixels.
    """
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images, size=tuple(size), mode="bilinear", antialias=True)
