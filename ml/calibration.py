"""Makes a trained network's confidence honest."""

import torch
from torch import Tensor
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
