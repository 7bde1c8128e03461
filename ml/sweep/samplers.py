"""Optuna samplers and pruners of a sweep."""

import hashlib
from collections.abc import Callable
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import (
    BaseSampler,
    GridSampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, TrialState

from ml.sweep.plan import Plan
from ml.sweep.space import Dimension


def make_sampler(plan: Plan) -> BaseSampler:
    """The plan's sampler; within `ml.sweep.config.configuration` if it is a grid."""
    if plan.sampler == "grid":
        grid = {d.key: _grid_values(d) for d in plan.parse_space().dimensions}
        return GridSampler(grid, seed=plan.seed)
    makers: dict[str, Callable[[int], BaseSampler]] = {
        "tpe": lambda seed: TPESampler(n_startup_trials=plan.startup_trials, seed=seed),
        "random": lambda seed: RandomSampler(seed=seed),
        "nsga2": lambda seed: NSGAIISampler(population_size=plan.startup_trials, seed=seed),
    }
    return SeededByTrial(makers[plan.sampler], plan.seed)


def make_pruner(plan: Plan) -> BasePruner:
    """The plan's pruner; its steps are epochs."""
    if plan.pruner == "median":
        return MedianPruner(n_startup_trials=plan.startup_trials, n_warmup_steps=1)
    if plan.pruner == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=plan.max_epochs)
    return NopPruner()


class SeededByTrial(BaseSampler):
    """Draws anew for every trial, from the seed and the trial's number alone.

    A sampler's own random numbers begin again in every process: two workers would try the same,
    and a sweep that continues would try again what it tried first.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed
        self._sampler = make(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        digest = hashlib.sha256(f"{self._seed} {trial.number}".encode()).digest()
        self._sampler = self._make(int.from_bytes(digest[:4], "big"))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self._sampler.after_trial(study, trial, state, values)


def _grid_values(dimension: Dimension) -> list[Any]:
    distribution = dimension.distribution
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    size, step = dimension.size, distribution.step
    assert size is not None
    assert step is not None
    return [min(distribution.low + i * step, distribution.high) for i in range(size)]
