"""What the command line of a training means, and the folder that it gets."""

import io
import re
from pathlib import Path

import pytest
from hydra.utils import get_object, instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from ml.runs.folder import ResumeError, RunFolder
from ml.training.launch import begun_run, hydra_arguments
from ml.training.presets import Presets

BUNDLED = Path(__file__).absolute().parents[3] / "ml" / "bundled"


def _config(runs: Path, **changes: object) -> DictConfig:
    values = {
        "name": "a run",
        "seed": 0,
        "resume": None,
        "rerun": None,
        "trainer": {"fast_dev_run": False},
        "paths": {"runs": str(runs)},
    }
    return OmegaConf.create(values | changes)


class _Several(Presets):
    """A command line that may stand for several seeds; this machine chooses the last."""

    def __init__(self, cfg: DictConfig, *seeds: int) -> None:
        self._all = [cfg.copy() for _ in seeds or (cfg.seed,)]
        for one, seed in zip(self._all, seeds, strict=False):
            one.seed = seed

    def possible(self) -> list[DictConfig]:
        return self._all

    def choose(self, console: Console) -> DictConfig:
        return self._all[-1]


def _begin(
    cfg: DictConfig, *overrides: str, seeds: tuple[int, ...] = ()
) -> tuple[RunFolder, DictConfig]:
    console = Console(file=io.StringIO())
    with begun_run(cfg, overrides, console, lambda: _Several(cfg, *seeds)) as (run, chosen):
        run.metrics.touch()  # so it has begun
    return run, chosen


@pytest.mark.parametrize("written", [["--rerun", "runs/x"], ["--rerun=runs/x"]])
def test_a_flag_is_an_override(written: list[str]) -> None:
    assert hydra_arguments(["seed=1", *written, "--cfg", "job"]) == [
        "seed=1",
        "rerun='runs/x'",
        "--cfg",
        "job",
    ]


@pytest.mark.parametrize("written", [["--rerun"], ["--resume="], ["--rerun", "--help"]])
def test_a_flag_without_its_folder_is_refused(written: list[str]) -> None:
    with pytest.raises(ResumeError, match=re.escape(written[0].rstrip("="))):
        hydra_arguments(written)


@given(st.lists(st.text(min_size=1).filter(lambda text: not text.startswith("--re"))))
def test_everything_else_is_left_as_it_is(arguments: list[str]) -> None:
    assert hydra_arguments(arguments) == arguments


def test_a_run_is_repeated_by_its_own_configuration_in_a_new_folder(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    original, _ = _begin(_config(runs, seed=7))
    run, cfg = _begin(_config(runs, rerun=f"runs/{original.path.name}"))
    assert run.path != original.path
    assert cfg.seed == 7
    assert run.load_config() == original.load_config()


def test_the_bundled_models_training_can_be_repeated(tmp_path: Path) -> None:
    _, cfg = _begin(_config(tmp_path / "runs", rerun=str(BUNDLED)))
    callbacks = [callback for callback in cfg.callbacks.values() if callback]
    for part in (cfg.data, cfg.network, cfg.optimizer, cfg.trainer, *callbacks):
        get_object(part._target_)
    assert instantiate(cfg.network, classes=10).head.out_features == 10
    assert cfg.optimizer.filter_lr == 0.12


@pytest.mark.parametrize("key", ["resume", "rerun"])
def test_a_run_that_is_continued_or_repeated_is_not_changed(tmp_path: Path, key: str) -> None:
    original, _ = _begin(_config(tmp_path / "runs"))
    cfg = _config(tmp_path / "runs", **{key: str(original.path)})
    _begin(cfg, f"{key}={original.path}", f"paths.runs={tmp_path}")
    with pytest.raises(ResumeError, match="seed=1 "):
        _begin(cfg, f"{key}={original.path}", "seed=1")


def test_one_cannot_continue_and_repeat(tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match=r"resume .*rerun "):
        _begin(_config(tmp_path, resume="auto", rerun="x"))


def test_a_fast_development_run_leaves_no_folder(tmp_path: Path) -> None:
    run, _ = _begin(_config(tmp_path / "runs", trainer={"fast_dev_run": True}))
    assert not run.path.exists()
    assert not (tmp_path / "runs").exists()


def test_a_new_run_stands_on_what_was_chosen(tmp_path: Path) -> None:
    run, cfg = _begin(_config(tmp_path / "runs"), seeds=(3, 4))
    assert cfg.seed == 4
    assert run.load_config().seed == 4


def test_an_unfinished_run_is_found_whatever_this_machine_would_choose_today(
    tmp_path: Path,
) -> None:
    cfg = _config(tmp_path / "runs", resume="auto")
    before, _ = _begin(cfg, seeds=(4, 3))
    run, found = _begin(cfg, seeds=(3, 4))
    assert run.path == before.path
    assert found.seed == 3


def test_a_budget_changes_nothing_of_a_run_that_continues(tmp_path: Path) -> None:
    before, _ = _begin(_config(tmp_path / "runs"))
    cfg = _config(tmp_path / "runs", resume=f"runs/{before.path.name}")
    run, _ = _begin(cfg, cfg.resume and f"resume={cfg.resume}", "budget=1h")
    assert run.path == before.path
