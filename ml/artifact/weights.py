"""A trained network's weights: reading them, and temperature scaling of its logits."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_PREFIX = "network."  # of the network's weights in a Lightning checkpoint
# Of logits whose gaps are 1 on average; at the limit all classes are equally likely.
_LEAST_LOG_SCALE = -7.0


def read_weights(path: Path) -> tuple[dict[str, Any], bool]:
    """A network's weights by name, and whether they come from a Lightning checkpoint.

    Raises:
        ValueError: the file holds neither; the message names it.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # unpickling a damaged file can raise anything
        reason = str(exc).partition("\n")[0]
        raise ValueError(
            f"{path} holds no readable weights ({type(exc).__name__}: {reason})"
        ) from exc
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds {type(state).__name__}, expected weights by name")
    if not isinstance(checkpoint := state.get("state_dict"), dict):
        return state, False
    own = {k.removeprefix(_PREFIX): v for k, v in checkpoint.items() if k.startswith(_PREFIX)}
    return own, True


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that maximises the posterior of the labels under Jeffreys' prior.

    Scaling changes confidence but no prediction: networks trained with smoothed labels are
    underconfident, others overconfident. If all predictions are right, the likelihood alone is
    maximal at a temperature of zero, which a few hundred images do not justify. The prior, half the
    logarithm of the scale's Fisher information, keeps it finite: a network that is right N times of
    N by equal gaps is assumed to err once in 2 N + 2. For many images it vanishes, and it removes
    the estimate's own bias.

    Args:
        logits: (N, K), of images that the network was not trained on.
        labels: (N,), class indices.

    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2 (temperature scaling); Firth 1993,
    Biometrika 80:27-38, and Heinze and Schemper 2002, Statistics in Medicine 21:2409-2419 (the
    penalty by Jeffreys' prior, and why it resolves separation).
    """
    logits = logits.detach().double()
    gaps = logits.amax(1, keepdim=True) - logits
    says_something = gaps.amax(1) > 0  # equal logits stay equal at any temperature
    if not says_something.any():
        return 1.0
    gaps, labels = gaps[says_something], labels[says_something]
    unit = gaps.mean()
    gaps, log_gaps = gaps / unit, (gaps / unit).log()
    log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS(
        [log_scale],
        max_iter=100,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        search.zero_grad()
        log_shares = F.log_softmax(-gaps * log_scale.exp(), dim=1)
        # The log of the variance of the gaps under the predicted probabilities, which vanishes if
        # all are certain.
        square = torch.logsumexp(log_shares + 2 * log_gaps, 1)
        mean = torch.logsumexp(log_shares + log_gaps, 1)
        information = torch.logsumexp(square + torch.log1p(-(2 * mean - square).exp()), 0)
        value = F.nll_loss(log_shares, labels) - information / (2 * len(labels))
        value.backward()
        return value

    search.step(loss)
    return (unit * (-log_scale.clamp(min=_LEAST_LOG_SCALE)).exp()).item()


@runtime_checkable
class ScalesLogits(Protocol):
    """A network whose logits can be rescaled for calibration."""

    def scale_logits(self, factor: float) -> None:
        """Permanently multiplies all logits by a factor."""


def calibrate(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Calibrates a network by temperature scaling, if it supports it; returns the temperature.

    Label smoothing makes networks underconfident; the service should report calibrated
    probabilities.

    Args:
        batches: normalised (N, C, H, W) images and (N,) labels, not used for training.
    """
    if not isinstance(network, ScalesLogits):
        return 1.0
    with torch.inference_mode():
        answers = [(network(images.cpu()), labels.cpu()) for images, labels in batches]
    logits, labels = (torch.cat(parts).clone() for parts in zip(*answers, strict=True))
    temperature = best_temperature(logits, labels)
    network.scale_logits(1 / temperature)
    return temperature
