"""The LightningModule: loss, metrics and learning-rate schedule around a plain network."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from common.lightning import OptimizerLRSchedulerConfig, lightning
from ml.training.config import DivergedError

_LOOK_EVERY = 16  # steps, where reading a number waits for the device


class ImageClassifier(lightning.LightningModule):
    """Cross-entropy training of a network that maps normalised (N, C, H, W) to (N, K) logits.

    Logs loss, accuracy and macro_f1 once per epoch, as ``train/…`` (of the augmented images) and
    ``val/…``.

    Args:
        network: the network to train; unaware of Lightning.
        classes: K.
        make_optimizer: network -> optimizer.
        label_smoothing: share of each label that is spread over all classes, in training only.
        warmup, schedule: see `schedule_factor`.
        class_weights: (K,), weights of the classes in the training loss; None for equal weights.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        *,
        classes: int,
        make_optimizer: Callable[[nn.Module], Optimizer],
        label_smoothing: float = 0.0,
        warmup: float = 0.0,
        schedule: str = "linear",
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.make_optimizer = make_optimizer
        self.label_smoothing = label_smoothing
        self.warmup = warmup
        self.schedule = schedule
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.train_scores = EpochScores(classes)
        self.val_scores = EpochScores(classes)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised (N, C, H, W) -> logits (N, K)."""
        return self.network(images)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """The smoothed mean loss of images (N, C, H, W) and labels: (N,), or (N, K) shares of mixed
        images, whose accuracy is measured against the class with the largest share."""
        images, labels = batch
        logits = self(images).float()
        loss = F.cross_entropy(
            logits, labels, self.class_weights, label_smoothing=self.label_smoothing
        )
        labels = labels.argmax(1) if labels.ndim == 2 else labels
        self.train_scores.add(logits.detach(), labels, loss.detach())
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stops the training if the loss is not finite; on all processes at the same step."""
        waits = self.device.type != "cpu" or self.trainer.world_size > 1
        if not waits or batch_idx % _LOOK_EVERY == 0:
            self._check_finite("train/loss", float(self.train_scores.loss(self._sum_over_ranks)))

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Evaluates images (N, C, H, W) and labels (N,); the loss is neither smoothed nor
        weighted."""
        images, labels = batch
        logits = self(images).float()
        self.val_scores.add(logits, labels, F.cross_entropy(logits, labels))

    def on_validation_epoch_end(self) -> None:
        """Logs the epoch's scores, summed over all processes."""
        # Validation ends an epoch: all callbacks see what is logged here at the end of the epoch.
        for part, scores in (("train", self.train_scores), ("val", self.val_scores)):
            sums = scores.take(self._sum_over_ranks)
            self._check_finite(f"{part}/loss", sums["loss"])
            self.log_dict({f"{part}/{name}": value for name, value in sums.items()})

    def _check_finite(self, name: str, loss: float) -> None:
        if not math.isfinite(loss):
            raise DivergedError(
                f"{name} is {loss} in epoch {self.current_epoch + 1}, step {self.global_step}: "
                "lower the learning rate (or raise warmup), and look at the dataset's mean and std"
            )

    def _sum_over_ranks(self, value: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(value, reduce_op="sum")

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer, and a schedule that advances with every step."""
        optimizer = self.make_optimizer(self.network)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = LambdaLR(
            optimizer, lambda step: schedule_factor(step, steps, self.warmup, self.schedule)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


SCHEDULES: dict[str, Callable[[float], float]] = {  # of the share of steps left after the warm-up
    "linear": lambda left: left,
    "cosine": lambda left: (1 - math.cos(math.pi * left)) / 2,
    "constant": lambda left: 1.0,
}


def schedule_factor(step: int, steps: int, warmup: float, schedule: str = "linear") -> float:
    """Factor on the learning rates: a linear warm-up from 0 to 1 over the share ``warmup`` of the
    steps, then a linear or half-cosine decay to 0, or a constant."""
    progress = min(step / max(steps, 1), 1.0)
    if progress < warmup:
        return progress / warmup
    return SCHEDULES[schedule]((1 - progress) / (1 - warmup) if warmup < 1 else 0.0)


def class_weights(
    wanted: str | Sequence[float] | None, labels: Tensor, classes: int
) -> Tensor | None:
    """Weights (K,) of the classes in the loss, from a list or ``balanced``: N / (K · images of the
    class).

    Raises:
        ValueError: it is neither, or not one number above zero per class.
    """
    if wanted is None:
        return None
    if wanted == "balanced":
        counts = torch.bincount(labels, minlength=classes)
        return len(labels) / (classes * counts.clamp(min=1).float())
    if isinstance(wanted, str) or len(wanted) != classes or not all(w > 0 for w in wanted):
        raise ValueError(
            f"class_weights={wanted}: expected balanced, or {classes} numbers above 0, one for "
            "each class"
        )
    return torch.tensor([float(weight) for weight in wanted])


class EpochScores:
    """Running sums over an epoch, kept on the device so that no step waits for a number."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._confusion: Any = 0
        self._loss: Any = 0.0

    def add(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Adds a batch: logits (N, K), labels (N,), and its mean loss."""
        pairs = labels * self.classes + logits.argmax(1)
        self._confusion = self._confusion + torch.bincount(pairs, minlength=self.classes**2)
        # The mean loss is undefined where a process's share of the last batch is empty.
        self._loss = self._loss + (loss * len(labels) if len(labels) else torch.zeros_like(loss))

    def loss(self, combine: Callable[[Tensor], Tensor] = lambda value: value) -> Tensor:
        """The summed loss so far; not finite if one of the batches' was not."""
        return combine(self._loss + 0.0)  # a new tensor, since the reduction may be in place

    def take(self, combine: Callable[[Tensor], Tensor] = lambda value: value) -> dict[str, float]:
        """Mean loss, accuracy and macro F1 of the batches so far; then resets the sums.

        Args:
            combine: sums a tensor over all processes that train together.
        """
        confusion = combine(self._confusion).view(self.classes, self.classes).double().cpu()
        total, hits = confusion.sum(), confusion.diagonal()
        seen = confusion.sum(0) + confusion.sum(1)
        f1 = (2 * hits / seen)[seen > 0]  # only of classes that occur or are predicted
        loss = float(self.loss(combine)) / float(total)
        self._confusion, self._loss = 0, 0.0
        return {"loss": loss, "accuracy": float(hits.sum() / total), "macro_f1": float(f1.mean())}
