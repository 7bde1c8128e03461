"""A kill at any moment of a save leaves a whole checkpoint."""

import multiprocessing
import os
from pathlib import Path

import pytest
import torch

from ml.training.callbacks import WholeCheckpointIO


def _save(path: Path, told: int) -> None:
    for number in range(1, 1000):
        WholeCheckpointIO().save_checkpoint({"w": torch.full((400_000,), number)}, path)
        os.write(told, b".")


def test_a_checkpoint_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "last.ckpt"
    WholeCheckpointIO().save_checkpoint({"w": torch.arange(5)}, path)
    assert torch.equal(torch.load(path)["w"], torch.arange(5))


@pytest.mark.parametrize("saves", [1, 3, 7])
def test_a_kill_between_and_within_saves_leaves_a_whole_checkpoint(
    tmp_path: Path, saves: int
) -> None:
    path = tmp_path / "last.ckpt"
    told, tell = os.pipe()
    process = multiprocessing.get_context("fork").Process(target=_save, args=(path, tell))
    process.start()
    for _ in range(saves):
        os.read(told, 1)
    process.kill()
    process.join()
    weights = torch.load(path)["w"]
    assert weights.min() == weights.max() >= saves
