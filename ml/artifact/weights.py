"""Weights by name, as training wrote them."""

from pathlib import Path
from typing import Any

import torch

_PREFIX = "network."  # of the network's weights in a checkpoint of Lightning's


def read_weights(path: Path) -> tuple[dict[str, Any], bool]:
    """A network's weights by name, and whether a checkpoint of Lightning's holds them.

    Raises:
        ValueError: it is neither; the message names the file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # whatever unpickling a damaged file comes upon
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
