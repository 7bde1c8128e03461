"""The record of what the machine did."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from common.lightning import lightning
from ml.runs.folder import read_rows
from ml.training.callbacks import MetricsLog
from ml.training.monitors import SystemMonitor, SystemSampler


class _Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        return self.layer(batch[0]).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class _Log(MetricsLog):
    """Knows the time and records nothing."""

    def on_train_epoch_end(self, *_: object) -> None: ...


def test_a_sample_holds_sensible_values() -> None:
    sample = SystemSampler(torch.device("cpu")).sample()
    assert 0 <= sample["cpu_percent"] <= 100
    assert 0 < sample["memory_percent"] <= 100
    assert 0 < sample["process_memory_gb"] < 1000
    assert not [name for name in sample if name.startswith("gpu")]


@pytest.mark.filterwarnings("ignore:.*LeafSpec")  # Lightning's own use of PyTorch
def test_a_training_is_sampled_from_its_start_to_its_end_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "system.jsonl"
    before = [{"elapsed_s": 0.0, "cpu_percent": 1.0}, {"elapsed_s": 1e6, "cpu_percent": 2.0}]
    path.write_text("".join(json.dumps(row) + "\n" for row in before))
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[_Log(), SystemMonitor(every_s=60)],
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(_Module(), DataLoader(TensorDataset(torch.zeros(4, 1))))
    rows = read_rows(path)
    # What lies after the moment of the continuation is repeated, so it is dropped.
    assert rows[0] == before[0]
    assert [row["elapsed_s"] < 1e6 for row in rows] == [True] * len(rows)
    assert len(rows) == 3


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": ')
    assert read_rows(path) == [{"a": 1}]
    assert read_rows(tmp_path / "gone.jsonl") == []
