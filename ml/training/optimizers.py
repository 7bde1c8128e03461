"""Muon for convolution filters with SGD for the rest; plain SGD and AdamW, optionally with learning
rates per layer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ml.training.hardware import multiplies_bfloat16
from ml.training.networks import find_layer


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum whose steps on filters are orthogonalised.

    A parameter group with ``orthogonal=True`` holds filters (4-D weights followed by a
    normalisation): each step first rescales a filter bank to the norm √(output channels), since its
    scale has no effect, then moves it by ``lr`` times the nearest semi-orthogonal matrix to its
    momentum. All other groups take plain SGD steps with weight decay.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers"; the renormalisation is that
    of the CIFAR-10 speed-run's Muon variant.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], dtype: torch.dtype = torch.float32
    ) -> None:
        defaults = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "orthogonal": False}
        super().__init__(groups, defaults)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates every parameter that has a gradient; returns the result of ``closure``, if
        given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)
        return loss

    def _update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        gradient = gradient.add(weight, alpha=group["weight_decay"])
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        momentum = state["momentum"].mul_(group["momentum"]).add_(gradient)
        direction = gradient.add(momentum, alpha=group["momentum"])
        if group["orthogonal"]:
            weight.mul_(len(weight) ** 0.5 / weight.norm())
            direction = orthogonalise(direction.flatten(1), self.dtype).view_as(weight)
        weight.add_(direction, alpha=-group["lr"])


def orthogonalise(matrix: Tensor, dtype: torch.dtype = torch.float32, steps: int = 3) -> Tensor:
    """(M, N) -> (M, N) float32 with singular values near one and the same singular vectors.

    Source: the quintic Newton-Schulz iteration of Jordan et al. 2024 (coefficients tuned for speed,
    not exactness: singular values end between about 0.7 and 1.2). bfloat16 is precise enough, but
    fast only on devices that support it.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.to(dtype)
    x = x / (x.norm() + 1e-7)
    if matrix.size(0) > matrix.size(1):
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if matrix.size(0) > matrix.size(1) else x).float()


def muon(
    network: nn.Module,
    *,
    filter_lr: float,
    bias_lr: float,
    head_lr: float,
    filter_momentum: float,
    momentum: float,
    weight_decay: float,
    orthogonalise_in: Literal["auto", "bfloat16", "float32"] = "auto",
) -> Muon:
    """Muon for the trained parameters of a network: filters (4-D), biases and gains (1-D), heads
    (2-D). The groups are named after the learning rates: ``filter``, ``bias``, ``head``.

    Args:
        weight_decay: independent of the learning rate: each step shrinks biases and heads by this
            share of themselves.
        orthogonalise_in: precision of the orthogonalisation's matrix products; auto is bfloat16
            where the network's device multiplies it natively.
    """
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    filters, heads, biases = ([w for w in trained if w.ndim == n] for n in (4, 2, 1))
    if unknown := [tuple(w.shape) for w in trained if w.ndim not in (4, 2, 1)]:
        raise ValueError(f"no rule for parameters of these shapes: {unknown}")
    return Muon(
        [
            {
                "name": "filter",
                "params": filters,
                "lr": filter_lr,
                "momentum": filter_momentum,
                "orthogonal": True,
            },
            *(
                {
                    "name": name,
                    "params": weights,
                    "lr": lr,
                    "momentum": momentum,
                    "weight_decay": weight_decay / lr,
                }
                for name, weights, lr in (("bias", biases, bias_lr), ("head", heads, head_lr))
            ),
        ],
        dtype=_matrix_dtype(orthogonalise_in, filters),
    )


def _matrix_dtype(name: str, weights: Sequence[Tensor]) -> torch.dtype:
    if name == "auto":
        device = weights[0].device.type if weights else "cpu"
        name = "bfloat16" if multiplies_bfloat16(device) else "float32"
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[name]


def sgd(
    network: nn.Module,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    layer_lr: Mapping[str, float] | None = None,
) -> torch.optim.SGD:
    """The usual baseline with Nesterov momentum; parameter groups from `by_layer`."""
    groups = by_layer(network, lr, weight_decay, layer_lr or {})
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)


def adamw(
    network: nn.Module,
    *,
    lr: float,
    betas: Sequence[float] = (0.9, 0.999),
    weight_decay: float,
    layer_lr: Mapping[str, float] | None = None,
) -> torch.optim.AdamW:
    """PyTorch's AdamW; parameter groups from `by_layer`."""
    if len(betas) != 2:
        raise ValueError(f"optimizer.betas={list(betas)}: expected two numbers in [0, 1)")
    first, second = betas
    groups = by_layer(network, lr, weight_decay, layer_lr or {})
    return torch.optim.AdamW(groups, lr=lr, betas=(first, second))


def by_layer(
    network: nn.Module, lr: float, weight_decay: float, layer_lr: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Parameter groups of the trained parameters: those of each named layer, under its name, then
    the rest; biases and gains without weight decay.

    Args:
        layer_lr: the learning rates of layers, by their names in the network (``groups.0``); if two
            contain a parameter, the longer name takes precedence.

    Raises:
        ValueError: the network has no layer of that name.
    """
    parts: list[tuple[dict[str, Any], dict[int, nn.Parameter]]] = []
    taken: set[int] = set()
    for name in sorted(layer_lr, key=len, reverse=True):
        own = {id(w): w for w in find_layer(network, name).parameters() if id(w) not in taken}
        taken |= own.keys()
        parts.append(({"name": name, "lr": layer_lr[name]}, own))
    rest = {id(w): w for w in network.parameters() if id(w) not in taken}
    groups = []
    for options, weights in ((({"lr": lr}), rest), *reversed(parts)):
        trained = [weight for weight in weights.values() if weight.requires_grad]
        for chosen, decay in (
            ([w for w in trained if w.ndim > 1], weight_decay),
            ([w for w in trained if w.ndim <= 1], 0.0),
        ):
            groups.append({**options, "params": chosen, "weight_decay": decay})
    return groups
