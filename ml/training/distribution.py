"""Processes on this machine that train together, one per device."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed

from common.lightning import LightningEnvironment
from common.programs import python_environment

_GRACE_S = 60  # for the other processes to exit after the first
_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")


class RankError(RuntimeError):
    """The processes of a training cannot work together; the message says why."""


class LocalRanks(LightningEnvironment):
    """The processes of this machine, started by `together`.

    Lightning's own launcher would run the first process's command line again, whatever it is: a
    sweep, a test, a build action. Here the other processes are given only their run folder.
    """

    def __init__(self, rank: int = 0, size: int = 1, port: int = -1) -> None:
        super().__init__()
        self._global_rank, self._world_size = rank, size
        self._main_port = port  # -1: MASTER_PORT, else a free port

    @property
    def creates_processes_externally(self) -> bool:
        return True  # from Lightning's point of view

    def local_rank(self) -> int:
        return self._global_rank

    def node_rank(self) -> int:
        return 0


@contextmanager
def together(ranks: LocalRanks, folder: Path) -> Iterator[None]:
    """Runs the other processes in the same run folder while the context lasts; they end with this
    process, however it ends.

    Raises:
        RankError: one of them failed although this one did not.
    """
    if ranks.world_size() == 1 or ranks.global_rank() > 0:
        yield
        return
    before = {name: os.environ.get(name) for name in _ADDRESS}
    others = [_start(ranks, rank, folder) for rank in range(1, ranks.world_size())]
    try:
        yield
        leave_group()
        for rank, process in enumerate(others, 1):
            if code := process.wait(_GRACE_S):
                raise RankError(f"process {rank} of {ranks.world_size()} ended with code {code}")
    finally:
        leave_group()
        for process in others:
            process.kill()
            process.communicate()
        for name, value in before.items():  # Lightning has set them
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _start(ranks: LocalRanks, rank: int, folder: Path) -> subprocess.Popen[bytes]:
    arguments = (str(rank), str(ranks.world_size()), str(ranks.main_port), str(folder))
    return subprocess.Popen(
        [sys.executable, "-m", "ml.training.fitting", *arguments],
        env=python_environment(),
        stdin=subprocess.PIPE,  # held open by this process alone: the others exit when it closes
        stdout=subprocess.DEVNULL,
    )


def leave_group() -> None:
    """Destroys the process group of the training, if there is one."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
