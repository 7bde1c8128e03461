"""Checkpoints that appear whole or not at all."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import nn

from ml.files import write_whole


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's own, but a kill while it writes leaves the checkpoint before.

    The original moves a finished file from the temp folder, which between two file systems is a
    copy that can stop half-way.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Writes aside in the checkpoint's own folder, then renames."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_whole(Path(path), buffer.getvalue())


def save_weights(network: nn.Module, path: Path) -> None:
    """Writes the state of a network, whole or not at all; ``torch.load(path)`` reads it."""
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    write_whole(path, buffer.getvalue())
