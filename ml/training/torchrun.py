"""Trainings under torchrun, on one machine or on several that share the folder of runs.

PyTorch is imported only if torchrun started the process.
"""

import os
from datetime import timedelta
from pathlib import Path

_PATIENCE = timedelta(seconds=120)


def is_started_by_torchrun() -> bool:
    """Whether somebody else has started the processes of this training."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_first() -> bool:
    """Whether this is the process that chooses the run folder and writes its files."""
    return not is_started_by_torchrun() or os.environ["RANK"] == "0"


def agree_on_folder(folder: Path | None) -> Path:
    """The run folder of all processes that torchrun started: the first gives it, the others give
    None and wait for it."""
    from torch import distributed

    store = distributed.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,  # torchrun's agent is
        timeout=_PATIENCE,
    )
    key = f"kiln/run_folder/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if folder is not None:
        store.set(key, str(folder))
    return Path(store.get(key).decode())
