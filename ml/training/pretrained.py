"""Networks of torchvision, and initial weights: from a published file or another run."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ml.artifact.weights import read_weights

# Without their auxiliary heads, whose logits no loss here uses.
_OPTIONS: dict[str, dict[str, Any]] = {
    name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")
}


def torchvision_model(
    classes: int,
    *,
    model: str,
    small_images: bool = False,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A torchvision classifier with random weights and K logits.

    Args:
        classes: K.
        model: its name in torchvision, such as ``resnet18``.
        small_images: whether the first convolution has stride 1 and is not followed by pooling,
            which suits images of about 32 pixels; published weights still fit.
        options: further arguments of torchvision, such as ``dropout``.

    Raises:
        ValueError: torchvision has no such classifier; the message lists the nearest.
    """
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    if model not in names:
        near = get_close_matches(model, names, 5, 0.3) or names[:5]
        raise ValueError(f"network.model={model}: expected one such as {', '.join(near)}")
    chosen = _OPTIONS.get(model, {}) | dict(options or {})
    try:
        network: nn.Module = torchvision.models.get_model(
            model, weights=None, num_classes=classes, **chosen
        )
    except TypeError as exc:
        raise ValueError(f"network.options={dict(options or {})}: {exc}") from exc
    if small_images:
        first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
        first.stride = (1, 1)
        if hasattr(network, "maxpool"):
            network.maxpool = nn.Identity()
    base = type(network)
    # A subclass, since a wrapper would change the published names of its layers.
    network.__class__ = type(base.__name__, (_ScalesHead, base), {})
    return network


class _ScalesHead(nn.Module):
    """Adds the method that calibration needs; after the last layer, torchvision's networks only
    pool."""

    @torch.no_grad()
    def scale_logits(self, factor: float) -> None:
        """Multiplies all logits by a factor, permanently."""
        head = self.get_submodule(head_of(self))
        for weight in head.parameters():
            weight.mul_(factor)


def head_of(network: nn.Module) -> str:
    """The name of the last linear or convolutional layer, which computes the logits."""
    kinds = (nn.Linear, nn.Conv2d)
    return [name for name, layer in network.named_modules() if isinstance(layer, kinds)][-1]


def load_initial(network: nn.Module, path: Path) -> list[str]:
    """Loads the weights of a file into a network; its head keeps its own where the classes differ.

    Args:
        path: a state dict (``.pt``, ``.pth``), or a checkpoint of a run.

    Returns:
        The names of the weights that were not loaded.

    Raises:
        ValueError: the file cannot be read, or its weights are those of another network.
    """
    (state, _), own = read_weights(path), network.state_dict()
    counts = {name for name in own if name.endswith("num_batches_tracked")}  # not in older files
    head = head_of(network) + "."
    lacking = [name for name in own if name not in state and name not in counts]
    unknown = [name for name in state if name not in own]
    others = {
        name: f"{name} {_shape(state[name])} instead of {_shape(own[name])}"
        for name in own
        if name in state and _shape(state[name]) != _shape(own[name])
    }
    misfits = [text for name, text in others.items() if not name.startswith(head)]
    if lacking or unknown or misfits:
        found = [f"it lacks {_few(lacking)}"] if lacking else []
        found += [f"it has {_few(unknown)}"] if unknown else []
        found += [f"it has {_few(misfits)}"] if misfits else []
        if lacking and (near := get_close_matches(lacking[0], unknown, 3)):
            found.append(f"nearest to {lacking[0]}: {', '.join(near)}")
        raise ValueError(
            f"init_from={path}: the weights are not of {type(network).__name__}: {'; '.join(found)}"
        )
    fitting = {name: value for name, value in state.items() if name not in others}
    network.load_state_dict(fitting, strict=False)
    return list(others)


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
