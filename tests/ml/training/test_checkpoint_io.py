"""A kill at any moment of a save leaves a whole checkpoint."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ml.training.callbacks import WholeCheckpointIO

_SAVES = """
import sys, torch
from pathlib import Path
from ml.training.callbacks import WholeCheckpointIO
for number in range(1, 1000):
    WholeCheckpointIO().save_checkpoint({"w": torch.full((400_000,), number)}, Path(sys.argv[1]))
    print(number, flush=True)
"""


def test_a_checkpoint_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "last.ckpt"
    WholeCheckpointIO().save_checkpoint({"w": torch.arange(5)}, path)
    assert torch.equal(torch.load(path)["w"], torch.arange(5))


@pytest.mark.parametrize("saves", [1, 3, 7])
def test_a_kill_between_and_within_saves_leaves_a_whole_checkpoint(
    tmp_path: Path, saves: int
) -> None:
    path = tmp_path / "last.ckpt"
    program = [sys.executable, "-c", _SAVES, str(path)]
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": ":".join(sys.path)}
    ) as process:
        assert process.stdout is not None
        for _ in range(saves):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    weights = torch.load(path)["w"]
    assert weights.min() == weights.max() >= saves
