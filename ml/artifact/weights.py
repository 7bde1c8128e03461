"""Weights by name, as training writes them."""

from pathlib import Path
from typing import Any

import torch

_PREFIX = "network."  # of the network's weights in a Lightning checkpoint


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
