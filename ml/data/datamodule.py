"""Training, validation and test batches: whole epochs are augmented as tensors, so that no core
waits for data."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from common.lightning import lightning
from common.resources import batch_within_memory
from ml.data.augmentation import Augmentation, augmented_samples, resize
from ml.data.checks import check_image_size, checked_part
from ml.data.cifar10 import CLASSES, dataset_digest, locate, read_records, stratified_split
from ml.data.packing import PackedImages

_EVALUATION_BATCH = 1000  # images at most


class Images:
    """A labelled set of images, iterated in fixed batches of normalised floats.

    Attributes:
        pixels: (N, C, H, W) uint8 in memory, or images that are read from disk on demand.
        labels: (N,) int64.
        batch_size: images per batch, fewer if they are large.
        rank, ranks: this process's share of each batch, where several processes evaluate together.
    """

    rank, ranks = 0, 1

    def __init__(
        self,
        pixels: Tensor | PackedImages,
        labels: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.pixels = pixels
        self.labels = labels
        self.mean = torch.tensor(mean, device=labels.device).view(1, -1, 1, 1)
        self.std = torch.tensor(std, device=labels.device).view(1, -1, 1, 1)
        image = int(np.prod(pixels.shape[1:]))
        self.batch_size = batch_within_memory(image, _EVALUATION_BATCH)

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.labels), self.batch_size):
            end = min(start + self.batch_size, len(self.labels))
            rows = slice(start + self.rank, end, self.ranks)
            yield self.normalise(self.take(rows)), self.labels[rows]

    def take(self, rows: slice | Tensor) -> Tensor:
        """(n, C, H, W) uint8 of the selected images, on the device of the labels."""
        if isinstance(self.pixels, Tensor):
            return self.pixels[rows]
        chosen = rows if isinstance(rows, slice) else rows.cpu().numpy()
        pixels = torch.from_numpy(self.pixels[chosen]).permute(0, 3, 1, 2)
        return pixels.to(self.labels.device)

    def share(self, rank: int, ranks: int) -> "Images":
        """The same images as seen by one of several processes; all get equally many batches."""
        shared = copy.copy(self)
        shared.rank, shared.ranks = rank, ranks
        return shared

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> float32 of mean 0 and standard deviation 1 per channel, channels
        last in memory."""
        scaled = (pixels.float() / 255 - self.mean) / self.std
        return scaled.contiguous(memory_format=torch.channels_last)


class AugmentedImages:
    """The training set: each epoch has a new order and a new augmentation, which depend on seed and
    epoch alone.

    A run that resumes at epoch 7 therefore sees exactly the batches of the uninterrupted run.
    Images that do not fill a last batch are dropped in that epoch; the order differs in the next.
    With several processes, each sees its share of every batch, so the batches do not depend on
    their number.
    """

    def __init__(
        self,
        images: Images,
        *,
        batch_size: int,
        augmentation: Augmentation,
        classes: int,
        sizes: Sequence[tuple[int, int]],
        seed: int,
        current_epoch: Callable[[], int],
        sampler: str = "shuffled",
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.classes = classes
        self.sizes = sizes
        self.seed = seed
        self._current_epoch = current_epoch
        self.sampler = sampler
        self.rank = rank
        self.ranks = ranks

    def __len__(self) -> int:
        return len(self.images.labels) // self.batch_size

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of this epoch's images in pixels; after the schedule, its last size."""
        return self.sizes[min(self._current_epoch(), len(self.sizes) - 1)]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, size = self._current_epoch(), self.size
        generator = Generator().manual_seed(self.seed * 1_000_003 + epoch)
        ways, images, pixels = self.augmentation, self.images, self.images.pixels
        if in_memory := isinstance(pixels, Tensor):  # all at once is far cheaper
            images = copy.copy(images)
            images.pixels = ways.of_epoch(pixels, epoch, self.seed, generator)
        order = self._order(generator).to(images.labels.device)
        # An image is mixed with its neighbour, which may be in another process's share.
        rank, ranks = (0, 1) if ways.mixes else (self.rank, self.ranks)
        for batch_rows in order.split(self.batch_size)[: len(self)]:
            rows = batch_rows[rank::ranks]
            pixels = images.take(rows)
            if not in_memory:
                pixels = ways.of_epoch(pixels, epoch, self.seed, generator, rows, len(order))
            pixels = ways.of_batch(pixels, generator, rank, ranks)
            batch, labels = resize(images.normalise(pixels), size), images.labels[rows]
            if ways.mixes:
                batch, labels = ways.mixed(batch, labels, self.classes, generator)
                batch, labels = (part[self.rank :: self.ranks] for part in (batch, labels))
            yield batch.contiguous(memory_format=torch.channels_last), labels

    def _order(self, generator: Generator) -> Tensor:
        """Image indices of this epoch: each image once, or about equally many of each class, with
        some images repeated."""
        labels = self.images.labels.cpu()
        if self.sampler == "balanced":
            rarity = 1 / torch.bincount(labels).clamp(min=1)
            return torch.multinomial(
                rarity[labels], len(labels), replacement=True, generator=generator
            )
        return torch.randperm(len(labels), generator=generator)


class ImageData(lightning.LightningDataModule, ABC):
    """Labelled images, held in memory, as training, validation and test set; the test set is read
    only when it is requested.

    A dataset is a subclass that defines the attributes below, `read` and `digest`; see
    docs/guides/new-dataset.md.

    Attributes:
        classes: names of the K classes, in the order of the labels.
        image_size: height and width in pixels.
        mean, std: per channel, of pixels scaled to 0…1; one number suffices for grey images.

    Args:
        batch_size: images per training step.
        validation_size: training images set aside for validation, equally many of each class; below
            1, a share of each class.
        train_size: number of images to train on; None for all that validation leaves.
        epochs: number of epochs that the size schedule spans.
        sizes: of the training images, one per stage of the schedule: a value up to 1 is a share of
            image_size, a larger one the shorter edge in pixels; the aspect ratio is kept. None
            trains at image_size throughout. Small sizes first make the early epochs cheap. Source:
            progressive resizing, Howard 2018 (fast.ai's DAWNBench entry).
        size_milestones: the share of the epochs at which each further stage begins; one fewer than
            sizes.
        max_shift, cutout, mirror: this dataset's default augmentation, under their earlier names;
            `Augmentation` has further settings, and an assigned `augmentation` takes precedence.
        sampler: ``shuffled`` shows each image once per epoch, ``balanced`` each class about equally
            often, so that rare classes are learnt too.
        seed: of the split, the order and the augmentation.
        folder: location of the files; None for the dataset's default locations.
    """

    classes: Sequence[str]
    image_size: tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]

    def __init__(
        self,
        *,
        batch_size: int,
        validation_size: float,
        epochs: int,
        seed: int,
        sizes: Sequence[float] | None = None,
        size_milestones: Sequence[float] = (),
        max_shift: int = 2,
        cutout: int = 0,
        mirror: bool = True,
        sampler: str = "shuffled",
        train_size: float | None = None,
        folder: str | Path | None = None,
    ) -> None:
        super().__init__()
        check_image_size(self)
        self.folder = Path(folder) if folder else self.usual_folder()
        self.batch_size = batch_size
        self.validation_size = validation_size
        self.train_size = train_size
        self.sizes = size_schedule(sizes, size_milestones, epochs, self.image_size)
        self.augmentation = Augmentation(mirror=mirror, shift=max_shift, cutout=cutout)
        self.sampler = sampler
        self.seed = seed
        self.device = torch.device("cpu")
        self._split: tuple[Images, Images] | None = None

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 in hex of the dataset; differs after every change of the dataset."""

    @abstractmethod
    def read(self, part: str) -> tuple[NDArray[np.uint8] | PackedImages, NDArray[np.int64]]:
        """Pixels (N, 3, H, W), or (N, 1, H, W) for grey images, and labels (N,) of ``train`` or
        ``test``; `ml.data.checks` validates them."""

    def divide(self, labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices of the training part's images for training and for validation."""
        return stratified_split(labels, self.validation_size, self.seed)

    def usual_folder(self) -> Path:
        """Default location of the files.

        Raises:
            ValueError: this dataset has none.
        """
        raise ValueError("data.folder is missing: name the folder that holds the dataset")

    def train_images(self) -> Images:
        """The images to train on."""
        return self._train_and_validation()[0]

    def validation_images(self) -> Images:
        """The images on which the model is evaluated during training."""
        return self._train_and_validation()[1]

    def test_images(self) -> Images:
        """The images on which the finished model is evaluated, once."""
        return self._images(*checked_part(self, "test"))

    def train_dataloader(self) -> AugmentedImages:
        """For Lightning: batches of normalised images (N, C, H, W) and labels (N,) for the
        trainer's current epoch."""
        return AugmentedImages(
            self.train_images(),
            batch_size=self.batch_size,
            augmentation=self.augmentation,
            classes=len(self.classes),
            sizes=self.sizes,
            sampler=self.sampler,
            seed=self.seed,
            current_epoch=lambda: self.trainer.current_epoch,  # type: ignore[union-attr]
            rank=self.trainer.global_rank,  # type: ignore[union-attr]
            ranks=self.trainer.world_size,  # type: ignore[union-attr]
        )

    def val_dataloader(self) -> Images:
        """Validation batches without augmentation, in a fixed order."""
        trainer = self.trainer
        assert trainer is not None
        return self.validation_images().share(trainer.global_rank, trainer.world_size)

    def augmented_samples(self, images: int = 8, epochs: int = 9) -> NDArray[np.uint8]:
        """(images, 1 + epochs, H, W, C): training images, each followed by its augmented
        versions."""
        train = self.train_images()
        samples = augmented_samples(
            train.take(slice(images)),
            train.labels[:images],
            self.augmentation,
            classes=len(self.classes),
            epochs=epochs,
        )
        return np.ascontiguousarray(samples.permute(0, 1, 3, 4, 2).cpu().numpy())

    def _train_and_validation(self) -> tuple[Images, Images]:
        if self._split is None:
            self.augmentation.check(*self.image_size)
            pixels, labels = checked_part(self, "train")
            train, validation = self.divide(labels)
            if self.train_size is not None:
                _, chosen = stratified_split(
                    labels[train], self.train_size, self.seed, "train_size"
                )
                train = train[chosen]
            if len(train) < self.batch_size:
                raise ValueError(
                    f"data.batch_size={self.batch_size} is more than "
                    f"the {len(train)} training images"
                )
            self._split = (
                self._images(pixels, labels, train),
                self._images(pixels, labels, validation),
            )
        return self._split

    def _images(
        self,
        pixels: NDArray[np.uint8] | PackedImages,
        labels: NDArray[np.int64],
        rows: NDArray[np.int64] | slice = slice(None),
    ) -> Images:
        where = torch.from_numpy(labels[rows]).to(self.device)
        if isinstance(pixels, PackedImages):
            return Images(pixels.select(rows), where, self.mean, self.std)
        return Images(torch.from_numpy(pixels[rows]).to(self.device), where, self.mean, self.std)


class CIFAR10(ImageData):
    """The pinned dataset: train.bin and test.bin in the published binary layout."""

    classes = CLASSES
    image_size = (32, 32)
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)

    @property
    def digest(self) -> str:
        """SHA-256 over both files' names, hashes and sizes."""
        return dataset_digest(self.folder)

    def read(self, part: str) -> tuple[NDArray[np.uint8] | PackedImages, NDArray[np.int64]]:
        """The records of ``train.bin`` or ``test.bin``."""
        records = read_records(self.folder / f"{part}.bin")
        return records.images, records.labels

    def usual_folder(self) -> Path:
        """Bazel's @cifar10, otherwise this machine's cache, filled if necessary."""
        return locate()


def size_schedule(
    sizes: Sequence[float] | None,
    milestones: Sequence[float],
    epochs: int,
    image_size: tuple[int, int],
) -> list[tuple[int, int]]:
    """Height and width in pixels for every epoch, with the aspect ratio of ``image_size``.

    Raises:
        ValueError: a size is neither a share nor a number of pixels, or is larger than the images;
            milestones are not one fewer than sizes, or do not increase between 0 and 1.
    """
    stages = [_scaled(size, image_size) for size in ([1] if sizes is None else sizes)]
    if len(milestones) != len(stages) - 1:
        raise ValueError(
            f"data.size_milestones must be one fewer than data.sizes, got {list(milestones)} "
            f"for {None if sizes is None else list(sizes)}"
        )
    if list(milestones) != sorted(milestones) or not all(0 < share < 1 for share in milestones):
        raise ValueError(f"data.size_milestones must rise between 0 and 1, got {list(milestones)}")
    return [stages[sum(epoch >= share * epochs for share in milestones)] for epoch in range(epochs)]


def _scaled(size: float, image_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width for one entry of ``sizes``."""
    shorter = min(image_size)
    is_number = isinstance(size, int | float) and not isinstance(size, bool)
    if not is_number or not 0 < size <= shorter or (size > 1 and size != int(size)):
        raise ValueError(
            f"data.sizes has {size}: expected a share of the images' size, above 0 and at most 1, "
            f"or whole pixels of their shorter edge, at most {shorter} (they are "
            f"{image_size[0]} × {image_size[1]}); null trains at that size"
        )
    share = size if size <= 1 else size / shorter
    height, width = (max(1, round(edge * share)) for edge in image_size)
    return height, width
