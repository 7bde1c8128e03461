"""The best trial comes back as an experiment that repeats it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, create_trial

from ml.sweep.report import (
    check_experiment_is_ours,
    experiment_path,
    experiment_text,
    write_experiment,
)
from ml.sweep.settings import SweepError, configuration
from tests.ml.sweep.plans import small_plan


@pytest.fixture(autouse=True)
def hydra() -> Iterator[None]:
    with configuration():
        yield


def _best(params: dict[str, Any]) -> FrozenTrial:
    distributions: dict[str, BaseDistribution] = {
        key: FloatDistribution(0, 1)
        if isinstance(value, float)
        else CategoricalDistribution(["[1,1,1]", "[2,2,2]", "sgd", "muon"])
        for key, value in params.items()
    }
    trial = create_trial(value=0.625, params=params, distributions=distributions)
    trial.number = 4
    return trial


def test_the_file_says_where_it_comes_from_and_composes_to_the_trial(tmp_path: Path) -> None:
    space = {"label_smoothing": "interval(0,1)", "network.depths": "[1,1,1],[2,2,2]"}
    plan = small_plan(tmp_path, space=space, overrides=("experiment=smoke", "data.max_shift=3"))
    path = write_experiment(plan, _best({"label_smoothing": 0.25, "network.depths": "[1,1,1]"}), 7)
    text = path.read_text()
    assert path == tmp_path / "configs" / "experiment" / "small_best.yaml"
    assert text.startswith("# @package _global_\n# bazel run //ml:train experiment=small_best\n")
    assert "the best of 7 finished trials of the study small, trial 4: val/accuracy 0.625" in text
    assert "# bazel run //ml:sweep sweep=base 'label_smoothing=interval(0,0.5)'" in text
    written = OmegaConf.load(path)
    assert written.label_smoothing == 0.25
    assert written.network.depths == [1, 1, 1]
    assert written.data.max_shift == 3
    assert written.name == "small_best"


def test_groups_and_other_experiments_come_back_too(tmp_path: Path) -> None:
    overrides = ["experiment=smoke", "optimizer=muon", "optimizer=sgd", "optimizer.lr=0.25"]
    written = OmegaConf.create(experiment_text("x", overrides))
    assert written.defaults == ["smoke", "_self_", {"override /optimizer": "sgd"}]
    plan = small_plan(tmp_path, space={"optimizer": "sgd,muon"})
    assert write_experiment(plan, _best({"optimizer": "sgd"}), 1).is_file()


def test_without_an_experiment_there_is_none_to_start_from() -> None:
    written = OmegaConf.create(experiment_text("x", ["experiment=null", "seed=3"]))
    assert written == {"name": "x", "seed": 3}


def test_a_file_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    check_experiment_is_ours(plan)
    path = write_experiment(plan, _best({"label_smoothing": 0.25}), 1)
    check_experiment_is_ours(plan)
    path.write_text("name: mine\n")
    with pytest.raises(SweepError, match=r"sweep\.experiment="):
        check_experiment_is_ours(plan)
    assert experiment_path(plan).read_text() == "name: mine\n"
