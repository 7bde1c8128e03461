"""Weights by name, as training wrote them."""

from pathlib import Path
from typing import Any

import torch


def read_weights(path: Path) -> dict[str, Any]:
    """What `torch.save` wrote: weights by name, or a checkpoint of Lightning's.

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
    return state
