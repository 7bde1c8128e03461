"""Trainings of a few steps with what a configuration can ask for beside the default recipe."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from common.lightning import lightning
from ml import stages
from ml.runs.folder import RunFolder, open_run
from ml.training.callbacks import metrics_log, save_weights
from ml.training.config import ConfigError, resolved
from ml.training.fitting import Fitted, fit
from ml.training.monitors import RateTest
from ml.training.pretrained import torchvision_model
from tests.ml.data.small_dataset import write_dataset

_SMALL = (
    *("data.validation_size=50", "data.batch_size=25", "data.sizes=[20]"),
    *("data.size_milestones=[]", "network.widths=[8,8,8]", "trainer.accelerator=cpu"),
    *("trainer.precision=32-true", "trainer.max_epochs=2", "callbacks.system=null"),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"), train=250, test=50)


class _Train:
    """Fits in a folder of the test's own."""

    def __init__(self, folder: Path, dataset: Path) -> None:
        self.folder, self.dataset = folder, dataset

    def cfg(self, *overrides: str) -> DictConfig:
        small = [text for text in _SMALL if f"~{text.split('=')[0]}" not in overrides]
        chosen = [text for text in overrides if not text.startswith("~")]
        return resolved([*small, f"data.folder={self.dataset}", *chosen])

    def __call__(
        self, *overrides: str, run: str = "run", callbacks: Sequence[lightning.Callback] = ()
    ) -> Fitted:
        cfg = self.cfg(*overrides)
        return fit(cfg, open_run(self.folder / run, cfg), Console(quiet=True), callbacks)

    def checkpoint(self, run: str = "run", name: str = "last") -> dict[str, Any]:
        path = RunFolder(self.folder / run).checkpoints / f"{name}.ckpt"
        return dict(torch.load(path, map_location="cpu", weights_only=True))


@pytest.fixture
def train(tmp_path: Path, dataset: Path) -> _Train:
    return _Train(tmp_path, dataset)


class _Gradients(lightning.Callback):
    """The norm of all gradients before each step of the optimizer, as they came out of clipping."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        grads = [w.grad for w in pl_module.parameters() if w.grad is not None]
        if grads:
            self.norms.append(float(nn.utils.get_total_norm(grads)))


class _Interrupts(lightning.Callback):
    """Ends a training as a crash would, in its second epoch."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.current_epoch == 1:
            raise InterruptedError


def test_a_whole_recipe_of_options_trains_and_logs_its_rates_by_their_names(train: _Train) -> None:
    fitted = train(
        *("optimizer=adamw", "optimizer.layer_lr={groups.1:1e-4}", "schedule=cosine"),
        *("warmup=0.25", "augmentation=strong", "class_weights=balanced"),
        *("freeze=[groups.0]", "trainer.accumulate_grad_batches=2"),
    )
    network = fitted.module.network
    assert fitted.trainer.global_step == 2 * (200 // 25) / 2
    rows = metrics_log(fitted.trainer).rows
    assert {"lr", "groups.1_lr"} <= rows[0].keys()
    assert rows[0]["groups.1_lr"] == pytest.approx(rows[0]["lr"] / 50)
    assert rows[0]["lr"] == pytest.approx(0.005 * 0.75, rel=0.01)  # half a wave
    assert rows[-1]["lr"] == 0
    state = torch.load(fitted.trainer.checkpoint_callback.best_model_path)["state_dict"]  # type: ignore[union-attr]
    frozen = {k: v for k, v in state.items() if k.startswith("network.groups.0")}
    assert frozen["network.groups.0.norm.num_batches_tracked"] == 0
    assert state["network.groups.1.norm.num_batches_tracked"] > 0
    assert not any(weight.requires_grad for weight in network.groups[0].parameters())  # type: ignore[index, union-attr]


def test_a_moving_average_is_what_is_kept(train: _Train) -> None:
    train("averaging=ema", "callbacks.averaging.decay=0.9")
    kept = train.checkpoint()
    average, current = kept["state_dict"], kept["current_model_state"]
    assert average.keys() == current.keys()
    assert not torch.equal(average["network.head.weight"], current["network.head.weight"])


def test_an_averaged_training_continues_to_the_same_bytes(train: _Train) -> None:
    options = ("averaging=ema", "augmentation=strong", "optimizer=adamw")
    train(*options, run="unbroken")
    with pytest.raises(InterruptedError):
        train(*options, run="broken", callbacks=[_Interrupts()])
    train(*options, run="broken")
    broken, unbroken = train.checkpoint("broken"), train.checkpoint("unbroken")
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(broken[part][k], unbroken[part][k]) for k in unbroken[part])


@pytest.mark.parametrize("optimizer", ["muon", "sgd", "adamw"])
def test_gradients_are_clipped_for_every_optimizer(train: _Train, optimizer: str) -> None:
    seen = _Gradients()
    train(
        f"optimizer={optimizer}",
        *("trainer.gradient_clip_val=0.01", "trainer.max_epochs=1"),
        callbacks=[seen],
    )
    assert seen.norms
    assert max(seen.norms) == pytest.approx(0.01, rel=1e-3)


def test_a_frozen_torchvision_model_starts_from_a_file_and_trains_its_head(train: _Train) -> None:
    torch.manual_seed(3)
    network = torchvision_model(1000, model="shufflenet_v2_x0_5")
    save_weights(network, train.folder / "published.pth")
    cfg = train.cfg(
        *("network=torchvision", "~network.widths", "network.model=shufflenet_v2_x0_5"),
        *("network.small_images=true", "optimizer=adamw", "trainer.max_epochs=1"),
        "freeze=[conv1,stage2,stage3,stage4,conv5]",
    )
    cfg.init_from = str(train.folder / "published.pth")
    fitted = fit(cfg, open_run(train.folder / "run", cfg), Console(quiet=True))
    assert fitted.fresh == ("fc.weight", "fc.bias")
    kept = fitted.module.network.state_dict()
    for name, value in network.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(kept[name], value), name
    provenance = json.loads(RunFolder(train.folder / "run").provenance.read_text())
    assert len(provenance["initial_weights"]) == 64


def test_a_build_takes_no_weights_that_it_is_not_keyed_by(train: _Train) -> None:
    with pytest.raises(ConfigError, match="init_from=x"):
        train.cfg("init_from=x")


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["freeze=[group.0]"], r"no layer group\.0.*groups\.0"),
        (["optimizer=sgd", "optimizer.layer_lr={haed:1}"], "no layer haed.*head"),
        (["class_weights=[1,2]"], "expected balanced, or 10 numbers"),
        (["class_weights=even"], "expected balanced"),
        (["augmentation.cutout=33"], r"augmentation\.cutout=33"),
        (["freeze=[stem,groups,head]"], "leave a layer to train"),
    ],
)
def test_what_does_not_fit_network_or_data_is_refused_before_the_start(
    train: _Train, overrides: Sequence[str], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        train(*overrides)
    assert not RunFolder(train.folder / "run").metrics.exists()


@pytest.mark.parametrize(
    "override",
    [
        *("schedule=step", "augmentation.crop=0", "augmentation.rotation=-1"),
        *("augmentation.colour=2", "augmentation.mixup=-1", "trainer.gradient_clip_val=0"),
        *("trainer.accumulate_grad_batches=0", "trainer.gradient_clip_algorithm=hard"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(train: _Train, override: str) -> None:
    with pytest.raises(ConfigError, match=override.split("=")[0]):
        train.cfg(override)


def test_a_configuration_of_an_earlier_release_trains_by_its_own_values(train: _Train) -> None:
    cfg = train.cfg("data.mirror=false", "data.max_shift=1", "data.cutout=3")
    for key in ("augmentation", "schedule", "class_weights", "freeze"):
        del cfg[key]
    fitted = fit(cfg, open_run(train.folder / "old", cfg), Console(quiet=True))
    augmentation = fitted.data.augmentation
    assert (augmentation.mirror, augmentation.shift, augmentation.cutout) == (False, 1, 3)
    fitted_now = train("data.mirror=false", "data.max_shift=1", "data.cutout=3", run="new")
    rows, now = (metrics_log(f.trainer).rows for f in (fitted, fitted_now))
    assert json.dumps(_scores(rows)) == json.dumps(_scores(now))


def _scores(rows: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k.startswith(("train/", "val/"))} for row in rows]


def test_a_search_for_the_learning_rate_trains_nothing_and_suggests_one(train: _Train) -> None:
    steps = "callbacks.rate_test.steps=40"
    cfg = train.cfg("debug=find_lr", "optimizer=sgd", steps, "trainer.max_epochs=1")
    run = open_run(train.folder / "run", cfg)
    summary = stages.train(cfg, run, Console(quiet=True))
    found = summary["rate_test"]
    assert found["lr"] == sorted(found["lr"])
    assert len(found["lr"]) == 40 or found["loss"][-1] > 4 * min(found["loss"])
    assert 1e-6 < found["suggestion"] < 1
    assert Path(summary["plot"]).read_bytes().startswith(b"\x89PNG")
    assert not run.last_checkpoint.exists()


def test_the_suggested_rate_is_where_the_loss_falls_fastest_by_the_logarithm() -> None:
    rates = np.logspace(-6, 0, 61)
    losses = 2.3 - 1.5 / (1 + np.exp(-4 * (np.log10(rates) + 1)))  # steepest at 0.1
    counts = np.arange(61)
    biased = losses * (1 - 0.98 ** (counts + 1)) / (1 - 0.98 ** (counts + 2))  # as Lightning has it
    test = RateTest(min_lr=1e-6, max_lr=1.0, steps=61)
    results: Any = SimpleNamespace(results={"lr": rates.tolist(), "loss": biased.tolist()})
    test.optimal_lr = results
    assert test.found["suggestion"] == pytest.approx(0.1)
    np.testing.assert_allclose(test.found["loss"], losses)
    results.results["loss"] = np.linspace(1, 2, 61).tolist()
    assert test.found["suggestion"] is None


def test_one_learning_rate_is_not_searched_where_there_are_several(train: _Train) -> None:
    with pytest.raises(ConfigError, match=r"optimizer=sgd.*optimizer=adamw"):
        train("debug=find_lr", "optimizer=muon")
