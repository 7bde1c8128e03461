"""Augmentation of whole epochs and batches: tensors in, tensors out, on any device.

The default recipe's augmentations are implemented here, for all images of an epoch at once; the
others are torchvision's, which is imported only if one of them is enabled.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

_TOGETHER = 8  # images of a batch that share one random draw of torchvision's transforms


@dataclass(frozen=True)
class Augmentation:
    """Settings of the training augmentation, each with its own switch; deterministic given a
    generator.

    Attributes:
        mirror: whether to flip images horizontally; false where that would change their class, as
            with arrows or letters.
        shift: maximum random translation along each axis in pixels, 0 for none.
        cutout: edge of the randomly placed blank square in pixels, 0 for none.
        crop: smallest share of an image's area that a random resized crop keeps, 1 for no crop.
        rotation: maximum random rotation in either direction in degrees, 0 for none; the border is
            filled by reflection.
        colour: largest relative change of brightness, contrast and saturation; the hue changes by
            up to a quarter of it. 0 for none.
        randaugment: number of RandAugment operations per image, 0 for none.
        magnitude: of these operations, 0..30.
        mixup, cutmix: alpha of the Beta distribution for mixing two images and their labels, 0 for
            none. With both, each batch uses one of them.
    """

    mirror: bool = True
    shift: int = 2
    cutout: int = 0
    crop: float = 1.0
    rotation: float = 0.0
    colour: float = 0.0
    randaugment: int = 0
    magnitude: int = 9
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def mixes(self) -> bool:
        """Whether labels become shares of several classes (mixup or CutMix)."""
        return self.mixup > 0 or self.cutmix > 0

    def check(self, height: int, width: int) -> None:
        """Checks shift and cutout against the image size.

        Raises:
            ValueError: one of them is too large; the message names it.
        """
        edge = min(height, width)
        for name, value, most in (("shift", self.shift, edge - 1), ("cutout", self.cutout, edge)):
            if value > most:
                raise ValueError(
                    f"augmentation.{name}={value}: expected at most {most} pixels for images of "
                    f"{height} × {width}"
                )

    def of_epoch(
        self,
        images: Tensor,
        epoch: int,
        seed: int,
        generator: Generator,
        rows: Tensor | None = None,
        among: int | None = None,
    ) -> Tensor:
        """Flips and shifts images (N, C, H, W) of an epoch and applies cutout; `rows` and `among`
        are those of `alternating_flip`."""
        if self.mirror:
            images = alternating_flip(images, epoch, seed, rows, among)
        images = random_shift(images, self.shift, generator)
        return random_cutout(images, self.cutout, generator)

    def of_batch(
        self, images: Tensor, generator: Generator, rank: int = 0, ranks: int = 1
    ) -> Tensor:
        """Applies torchvision's transforms to images (N, C, H, W) uint8, a few per random draw.

        Args:
            rank, ranks: this process's share of the batch; together, the shares equal what a single
                process would produce.
        """
        height, width = images.shape[-2:]
        transform = self._transform(height, width)
        if transform is None:
            return images
        batch_size = len(images) * ranks
        seeds = torch.randint(2**62, (-(-batch_size // _TOGETHER),), generator=generator).tolist()
        draws = torch.arange(rank, batch_size, ranks) % len(seeds)
        changed = torch.empty_like(images)
        with _own_random_state():
            for draw in draws.unique().tolist():
                rows = (draws == draw).nonzero().squeeze(1).to(images.device)
                torch.default_generator.manual_seed(seeds[draw])
                changed[rows] = transform(images[rows])
        return changed

    def mixed(
        self, images: Tensor, labels: Tensor, classes: int, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Applies mixup or CutMix to float images (N, C, H, W) and labels (N,): returns the images,
        each mixed with its neighbour in the batch, and their share of each class (N, classes)."""
        from torchvision.transforms import v2

        ways = [
            way(alpha=float(alpha), num_classes=classes)
            for way, alpha in ((v2.MixUp, self.mixup), (v2.CutMix, self.cutmix))
            if alpha > 0
        ]
        seed, choice = torch.randint(2**62, (2,), generator=generator).tolist()
        with _own_random_state():
            torch.default_generator.manual_seed(seed)
            mixed: tuple[Tensor, Tensor] = ways[choice % len(ways)](images, labels)
        return mixed

    def _transform(self, height: int, width: int) -> Any:
        """Torchvision's transforms in order, None if there are none."""
        if self.crop == 1 and not (self.rotation or self.colour or self.randaugment):
            return None
        from torchvision.transforms import v2

        size, chosen = [height, width], list[Any]()
        if self.rotation:
            turn = math.radians(min(self.rotation, 45))
            grown = max(height, width) * (math.sin(turn) + math.cos(turn) - 1) / 2
            margin = min(math.ceil(grown), height - 1, width - 1)
            bilinear = v2.InterpolationMode.BILINEAR
            chosen += [
                v2.Pad(margin, padding_mode="reflect"),
                v2.RandomRotation(self.rotation, bilinear),
                v2.CenterCrop(size),
            ]
        if self.crop < 1:
            chosen.append(v2.RandomResizedCrop(size, scale=(self.crop, 1)))
        if self.colour:
            chosen.append(v2.ColorJitter(*[self.colour] * 3, hue=min(self.colour / 4, 0.5)))
        if self.randaugment:
            chosen.append(v2.RandAugment(self.randaugment, self.magnitude))
        return v2.Compose(chosen)


@contextmanager
def _own_random_state() -> Iterator[None]:
    """Restores the CPU's global random state afterwards: torchvision draws from it, and so does the
    network's dropout."""
    before = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(before)


def augmented_samples(
    images: Tensor, labels: Tensor, augmentation: Augmentation, *, classes: int, epochs: int
) -> Tensor:
    """(N, C, H, W) uint8 -> (N, 1 + epochs, C, H, W): each image unchanged, then as augmented in
    the first epochs."""
    shown = [images]
    for epoch in range(epochs):
        generator = Generator().manual_seed(epoch)
        changed = augmentation.of_epoch(images, epoch, 0, generator)
        # One at a time, so that each image has its own random draw, as in a large batch.
        changed = torch.cat([augmentation.of_batch(one, generator) for one in changed.split(1)])
        if augmentation.mixes:
            floats, _ = augmentation.mixed(changed.float(), labels, classes, generator)
            changed = floats.round().byte()
        shown.append(changed)
    return torch.stack(shown, dim=1)


def random_shift(images: Tensor, max_shift: int, generator: Generator) -> Tensor:
    """Shifts each image by up to ``max_shift`` pixels along each axis; reflection fills the border.

    Args:
        images: (N, C, H, W), any dtype.
        max_shift: pixels, 0 leaves the images unchanged.
        generator: draws two shifts per image, on the CPU.

    Source: the "crop after padding by reflection" of He et al. 2015, arXiv:1512.03385, section 4.2.
    """
    if max_shift == 0:
        return images
    height, width = images.shape[-2:]
    choices = 2 * max_shift + 1
    shifts = torch.randint(choices * choices, (len(images),), generator=generator)
    padded = reflect_border(images, max_shift)
    shifted = torch.empty_like(images)
    # One gather per shift, of which there are few, is far cheaper than one slice per image.
    for shift in range(choices * choices):
        rows = (shifts == shift).nonzero().squeeze(1).to(images.device)
        top, left = divmod(shift, choices)
        shifted[rows] = padded[rows, :, top : top + height, left : left + width]
    return shifted


def reflect_border(images: Tensor, width: int) -> Tensor:
    """(N, C, H, W) of any dtype -> (N, C, H + 2·width, W + 2·width), padded by reflection."""
    for dim in (2, 3):
        size = images.shape[dim]
        index = torch.arange(-width, size + width, device=images.device).abs()
        index = torch.where(index < size, index, 2 * (size - 1) - index)
        images = images.index_select(dim, index)
    return images


def alternating_flip(
    images: Tensor, epoch: int, seed: int, rows: Tensor | None = None, among: int | None = None
) -> Tensor:
    """Flips a random half of the images horizontally in even epochs and the other half in odd ones.

    Any two consecutive epochs show every image both ways; independent flips would show half of them
    the same way twice.

    Args:
        images: (N, C, H, W).
        rows: (N,), index of each image in the whole set, which determines when it is flipped; None
            if these are the whole set, always in the same order.
        among: size of the whole set.

    Source: Jordan 2024, arXiv:2404.00498, section 3.6.
    """
    first = torch.rand(among or len(images), generator=Generator().manual_seed(seed)) < 0.5
    if rows is not None:
        first = first[rows.cpu()]
    mirrored = (first if epoch % 2 == 0 else ~first).nonzero().squeeze(1).to(images.device)
    flipped = images.clone()
    flipped[mirrored] = images[mirrored].flip(3)
    return flipped


def random_cutout(images: Tensor, size: int, generator: Generator) -> Tensor:
    """Fills a randomly placed square of ``size`` pixels in each image with the mean grey of the
    batch.

    Args:
        images: (N, C, H, W).
        size: edge in pixels, 0 leaves the images unchanged.

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
