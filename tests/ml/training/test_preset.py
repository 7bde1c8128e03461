"""ml/training/presets.py: the ladder of presets, and which of them a machine takes."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from ml.runs.folder import config_digest
from ml.training import hardware, presets
from ml.training.config import (
    CONFIGS,
    LADDER,
    ConfigError,
    check_values,
    parse_duration,
    register_schema,
)
from ml.training.presets import Presets, Speed, climb, measure_speed, settle, training_seconds
from tests.ml.data.small_dataset import write_dataset
from tests.ml.workspace import Workspace

_PER_IMAGE_S = 0.001


@pytest.fixture(autouse=True)
def hydra() -> Iterator[None]:
    register_schema()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


def _rung(name: str, *overrides: str) -> DictConfig:
    return compose("train", [f"preset={name}", *overrides])


def _machine(
    monkeypatch: pytest.MonkeyPatch, *, seconds: Sequence[float], memory: int | None = None
) -> None:
    """A machine on which the presets take so long, and with so many bytes of memory."""
    by_name = dict(zip(LADDER, seconds, strict=True))
    monkeypatch.setattr(presets, "measure_speed", lambda cfg: Speed(by_name[cfg.preset.name], 0.0))
    monkeypatch.setattr(presets, "training_seconds", lambda cfg, speed: speed.image_s)
    monkeypatch.setattr(presets, "available_memory", lambda: memory)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1.5h", 5400), ("1h30m", 5400), ("1h1m1s", 3661)],
)
def test_a_duration_is_understood(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "ten", "-5m", "0s", "5 m", "10min", "1e3s", "5m!"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_duration(text)


@pytest.mark.parametrize("name", LADDER)
def test_every_rung_composes_and_says_what_it_is(name: str) -> None:
    cfg = _rung(name)
    check_values(cfg)
    assert cfg.preset.name == name
    assert 0.5 < cfg.preset.accuracy < 1
    assert cfg.preset.memory_gib > 0.5


def test_a_higher_rung_costs_more_and_is_more_accurate() -> None:
    rungs = [_rung(name) for name in LADDER]
    accuracies = [cfg.preset.accuracy for cfg in rungs]
    multiplications = [presets.training_flop(cfg) for cfg in rungs]
    assert accuracies == sorted(set(accuracies))
    assert multiplications == sorted(set(multiplications))


def test_large_is_the_configuration_as_it_stands() -> None:
    assert config_digest(_rung("large")) == config_digest(compose("train", []))


@pytest.mark.parametrize(
    ("seconds", "memory", "expected"),
    [
        ((1, 2, 3, 4, 5, 6, 7), None, "reference"),
        ((60, 200, 300, 700, 900, 1200, 9000), None, "small"),
        ((60, 200, 601, 700, 900, 1200, 9000), None, "short"),
        ((60, 200, 300, 400, 600, 800, 9000), None, "large"),
        ((60, 200, 300, 350, 440, 600, 9000), None, "full"),
        ((700, 2000, 3000, 4000, 5000, 6000, 9000), None, "tiny"),  # none fits
        ((1, 2, 3, 4, 5, 6, 7), 0, "tiny"),
    ],
)
def test_the_best_rung_that_fits_is_taken(
    monkeypatch: pytest.MonkeyPatch, seconds: Sequence[float], memory: int | None, expected: str
) -> None:
    _machine(monkeypatch, seconds=seconds, memory=memory)
    assert climb(map(_rung, LADDER), budget_s=600).cfg.preset.name == expected


def test_a_rung_is_not_lost_to_a_moment_in_which_something_else_ran(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = list[str]()

    def measure(cfg: DictConfig) -> Speed:
        name = cfg.preset.name
        measured.append(name)
        is_disturbed = name == "small" and measured.count(name) == 1
        return Speed(900.0 if is_disturbed or name == "long" else 300.0, 0.0)

    monkeypatch.setattr(presets, "measure_speed", measure)
    monkeypatch.setattr(presets, "training_seconds", lambda cfg, speed: speed.image_s)
    assert climb(map(_rung, LADDER), budget_s=600).cfg.preset.name == "small"
    assert measured == ["tiny", "short", "small", "small", "long", "long"]


def test_a_rung_that_does_not_fit_into_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    need = _rung("large").preset.memory_gib * 2**30
    _machine(monkeypatch, seconds=(1, 2, 3, 4, 5, 6, 7), memory=int(need) - 1)
    choice = climb(map(_rung, LADDER), budget_s=600)
    assert choice.cfg.preset.name == "long"
    assert choice.obstacle is not None
    assert "large" in choice.obstacle


@given(
    st.lists(st.floats(1, 1e5), min_size=len(LADDER), max_size=len(LADDER)).map(sorted),
    st.floats(1, 1e5),
    st.floats(1, 1e5),
)
def test_more_time_never_buys_a_lower_rung(seconds: list[float], one: float, other: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _machine(patch, seconds=seconds)
        rungs = [OmegaConf.create({"preset": {"name": n, "memory_gib": 1}}) for n in LADDER]
        less, more = (climb(rungs, budget).cfg.preset.name for budget in sorted((one, other)))
    assert LADDER.index(less) <= LADDER.index(more)


def test_the_time_of_a_training_is_its_images_and_steps() -> None:
    cfg = _rung(
        "tiny",
        "data.sizes=[32]",
        "data.size_milestones=[]",
        "data.validation_size=3000",
        "data.batch_size=500",
        "trainer.max_epochs=2",
    )
    images, validated, steps = 2 * 47_000, 2 * 3000, 2 * 94
    expected = (images + validated / 3) * _PER_IMAGE_S + steps * 0.1
    assert training_seconds(cfg, Speed(_PER_IMAGE_S, 0.1)) == pytest.approx(expected)


def test_smaller_images_take_less_time() -> None:
    fast, slow = (
        training_seconds(
            _rung("small", f"data.sizes=[{small},32]", "data.size_milestones=[0.5]"),
            Speed(_PER_IMAGE_S, 0.0),
        )
        for small in (16, 32)
    )
    assert 0.5 < fast / slow < 0.75


def test_the_probe_measures_and_leaves_the_random_state_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    speed = measure_speed(settle(_rung("tiny", "network.widths=[8,8,8]", "trainer=cpu")))
    assert speed.image_s > 0
    assert speed.step_s > 0
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("native", "precision", "dtype"),
    [(True, "bf16-mixed", "bfloat16"), (False, "32-true", "float32")],
)
def test_what_the_machine_decides_becomes_a_value(
    monkeypatch: pytest.MonkeyPatch, native: bool, precision: str, dtype: str
) -> None:
    monkeypatch.setattr(hardware, "multiplies_bfloat16", lambda device: native)
    cfg = settle(_rung("small", "trainer=cpu"))
    assert cfg.trainer.precision == precision
    assert cfg.optimizer.orthogonalise_in == dtype


def test_a_named_value_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "multiplies_bfloat16", lambda device: True)
    cfg = settle(_rung("small", "trainer.precision=32-true", "optimizer.orthogonalise_in=float32"))
    assert (cfg.trainer.precision, cfg.optimizer.orthogonalise_in) == ("32-true", "float32")


def _said(overrides: Sequence[str], compose_rung: Callable[[str], DictConfig]) -> str:
    output = io.StringIO()
    cfg = compose("train", list(overrides))
    Presets(cfg, overrides, compose_rung).choose(Console(file=output))
    return output.getvalue()


def test_the_choice_is_one_line_with_the_expected_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, seconds=(60, 200, 300, 700, 900, 1200, 9000))
    line = _said([], _rung)
    assert line.count("\n") == 1
    for part in ("small", f"{_rung('small').preset.accuracy:.1%}", "5 min 0 s", "11 min 40 s"):
        assert part in line


def test_no_accuracy_is_promised_for_another_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, seconds=(60, 200, 300, 700, 900, 1200, 9000))
    accuracy = f"{_rung('small').preset.accuracy:.1%}"
    assert accuracy in _said(["seed=3"], lambda name: _rung(name, "seed=3"))
    assert accuracy not in _said(["data.cutout=4"], lambda name: _rung(name, "data.cutout=4"))
    assert accuracy not in _said(["monitor=val/loss"], lambda name: _rung(name, "monitor=val/loss"))


_SMALL = (
    "data.validation_size=50",
    "data.batch_size=10",
    "data.sizes=[20]",
    "data.size_milestones=[]",
    "network.widths=[8,8,8]",
    "trainer=cpu",
    "trainer.max_epochs=1",
    "conclude=false",
)


def test_a_run_records_what_was_chosen_and_is_repeated_without_a_choice(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, write_dataset(tmp_path / "dataset", train=300, test=100))
    done = workspace.run(*_SMALL, "budget=1s", "conclude=false")
    assert done.returncode == 0, done.stderr
    (run,) = workspace.runs
    cfg = OmegaConf.load(run / "config.yaml")
    assert cfg.preset.name == "tiny"
    assert cfg.trainer.precision != "auto"
    assert cfg.optimizer.orthogonalise_in != "auto"
    done = workspace.run("--rerun", str(run))
    assert done.returncode == 0, done.stderr
    _, again = workspace.runs
    assert OmegaConf.load(again / "config.yaml") == cfg


def test_a_named_experiment_is_never_changed_by_the_machine(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, write_dataset(tmp_path / "dataset", train=300, test=100))
    done = workspace.run(*_SMALL, "experiment=smoke", "data.train_size=200", "budget=1s")
    assert done.returncode == 0, done.stderr
    (run,) = workspace.runs
    assert OmegaConf.load(run / "config.yaml").preset is None


def test_a_budget_that_is_no_duration_is_refused_before_anything_starts(tmp_path: Path) -> None:
    done = Workspace(tmp_path).run("budget=soon")
    assert done.returncode == 2
    assert not (tmp_path / "runs").exists()
