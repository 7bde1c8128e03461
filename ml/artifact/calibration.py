"""Temperature scaling of a trained network's logits."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The number that logits are divided by for the smallest cross-entropy; 1 if they are fine.

    Dividing changes no prediction, only how sure it sounds: networks trained on smoothed labels
    sound too modest, others too sure.

    Args:
        logits: (N, K), of images that the network was not trained on.
        labels: (N,), class indices.

    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2 (temperature scaling).
    """
    logits = logits.detach().double()
    log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([log_scale], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        value = F.cross_entropy(logits * log_scale.exp(), labels)
        value.backward()
        return value

    search.step(loss)
    return (-log_scale).exp().item()


@runtime_checkable
class ScalesLogits(Protocol):
    """A network that calibration can set the confidence of."""

    def scale_logits(self, factor: float) -> None:
        """Multiplies all logits by a factor, for good."""


def calibrate(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Sets the scale of a network's logits, if it lets itself be scaled; the temperature.

    Label smoothing teaches a network to sound unsure; the service should say what is true.

    Args:
        batches: normalised (N, C, H, W) images and (N,) labels that it was not trained on.
    """
    if not isinstance(network, ScalesLogits):
        return 1.0
    with torch.inference_mode():
        answers = [(network(images.cpu()), labels.cpu()) for images, labels in batches]
    logits, labels = (torch.cat(parts).clone() for parts in zip(*answers, strict=True))
    temperature = best_temperature(logits, labels)
    network.scale_logits(1 / temperature)
    return temperature
