"""A command becomes a plan, or is refused before anything starts."""

from collections.abc import Iterator

import pytest

from ml.sweep.plan import Plan, make_plan
from ml.sweep.settings import METRICS, SweepError, configuration
from ml.sweep.standings import baseline
from ml.training.config import CONFIGS
from ml.training.module import EpochScores

PRESETS = sorted(path.stem for path in (CONFIGS / "sweep").glob("*.yaml") if path.stem != "base")


@pytest.fixture(autouse=True)
def hydra() -> Iterator[None]:
    with configuration():
        yield


def test_the_objectives_are_what_training_logs() -> None:
    import torch

    scores = EpochScores(2)
    scores.add(torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor(1.0))
    assert {name.split("/")[1] for name in METRICS} == set(scores.take())


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_sound_plan(preset: str) -> None:
    plan = make_plan([f"sweep={preset}"])
    assert plan.name == preset
    assert plan.experiment == f"{preset}_best"
    assert Plan.from_json(plan.to_json()) == plan
    assert len(plan.parse_space().dimensions) >= 3


def test_the_smoke_preset_is_fifty_trials_on_real_images() -> None:
    plan = make_plan(["sweep=smoke"])
    assert plan.n_trials == 50
    cfg = plan.compose_trial([])
    assert cfg.data.folder is None
    assert cfg.data.train_size <= 1000
    assert not cfg.conclude


def test_values_typed_on_the_command_line_join_and_leave_the_search() -> None:
    plan = make_plan(
        ["sweep=smoke", "optimizer.filter_lr=0.1", "optimizer.momentum=interval(0.5,0.9)"]
    )
    assert "optimizer.filter_lr" not in plan.space
    assert plan.space["optimizer.momentum"] == "interval(0.5,0.9)"
    assert plan.overrides[-1] == "optimizer.filter_lr=0.1"


def test_the_last_word_on_a_key_counts() -> None:
    plan = make_plan(["sweep=base", "seed=1", "warmup=0,0.1", "seed=2,3", "warmup=0.2"])
    assert plan.space == {"seed": "2,3"}
    assert plan.overrides == ("warmup=0.2",)


def test_groups_can_be_searched() -> None:
    plan = make_plan(["sweep=base", "optimizer=glob(*)"])
    overrides = plan.parse_space().overrides({"optimizer": "sgd"})
    assert plan.compose_trial(overrides).optimizer._target_ == "ml.training.optimizers.sgd"


def test_the_configuration_as_it_stands_is_a_point_of_the_space() -> None:
    plan = make_plan(["sweep=smoke"])
    params = baseline(plan.compose_trial([]), plan.parse_space())
    assert params is not None
    assert params["network.depths"] == "[2,2,2]"
    assert params["optimizer.filter_lr"] == 0.12
    again = plan.compose_trial(plan.parse_space().overrides(params))
    assert again == plan.compose_trial([])


def test_a_configuration_beside_the_space_is_no_point_of_it() -> None:
    plan = make_plan(["sweep=base", "label_smoothing=interval(0.5,0.6)"])
    assert baseline(plan.compose_trial([]), plan.parse_space()) is None


@pytest.mark.parametrize(
    ("objectives", "pruner"),
    [
        ([], "median"),
        (["sweep.minimize=[latency_ms]"], "none"),
        (["sweep.maximize=[]", "sweep.minimize=[val/loss]"], "median"),
        (["sweep.maximize=[]", "sweep.minimize=[latency_ms]"], "none"),
    ],
)
def test_only_one_metric_that_comes_by_epoch_is_pruned(objectives: list[str], pruner: str) -> None:
    assert make_plan(["sweep=base", "label_smoothing=0,0.1", *objectives]).pruner == pruner


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["optimizer.filer_lr=interval(0,1)"], "Key 'filer_lr' not in 'MuonConfig'"),
        (["optimizer=sgd"], "Key 'filter_lr' not in 'SGDConfig'"),
        (["data.batch_size=interval(10,400)"], r"data.batch_size=int\(interval\(a,b\)\)"),
        (["label_smoothing=interval(0,2)"], r"label_smoothing=2\.0: expected a value in \[0, 1\)"),
        (["label_smoothing=interval(0.2,0.1)"], "the interval is empty"),
        (["seed=one,two"], "could not be converted to Integer"),
        (["experiment=smok"], "Could not find 'experiment/smok'"),
        (["sweep=nothing"], "Could not find 'sweep/nothing'"),
        (["sweep.trials=3"], "Key 'trials' not in 'SweepConfig'"),
        (["sweep.n_trials=many"], "could not be converted to Integer"),
        (["sweep.n_trials=0"], "sweep.n_trials=0: expected a number from 1 on"),
        (["sweep.sampler=cma"], "sweep.sampler=cma: expected one of tpe"),
        (["sweep.pruner=hyper"], "expected one of auto, none, median, hyperband"),
        (["sweep.maximize=[val/acuracy]"], "expected any of val/accuracy"),
        (["sweep.maximize=[test/accuracy]"], "expected any of val/accuracy"),
        (["sweep.maximize=[]"], "expected one objective at least"),
        (["sweep.minimize=[latency_ms]", "sweep.pruner=median"], "use pruner=none"),
        (["sweep.grace_s=5"], "expected two heartbeats at least"),
        (["sweep.name=../x"], "sweep.name=../x: expected letters"),
        (["sweep.sampler=grid"], "needs values that can be counted, optimizer.filter_lr"),
        (["sweep.overrides=['seed=interval(0,1)']"], "sweep.space"),
        (["paths.runs=x"], "a sweep sets paths itself"),
        (["conclude=true,false"], "a sweep sets conclude itself"),
        (["~warmup"], "a deletion cannot be written back"),
        (["seed=interval(1"], "no viable alternative"),
    ],
)
def test_bad_input_is_explained(arguments: list[str], complaint: str) -> None:
    preset = [] if arguments[0].startswith("sweep=") else ["sweep=smoke"]
    with pytest.raises(SweepError, match=complaint):
        make_plan([*preset, *arguments])
