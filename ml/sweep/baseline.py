"""The configuration as it stands, as a trial: what the search has to beat."""

from typing import Any

from omegaconf import DictConfig, OmegaConf
from optuna import Study

from ml.sweep.plan import Plan
from ml.sweep.space import Space


def queue_baseline(plan: Plan, study: Study, space: Space) -> bool:
    """Queues the configuration as it stands as the first trial; False if the space does not
    contain it."""
    params = baseline(plan.compose_trial([]), space)
    if params is not None:
        study.enqueue_trial(params, skip_if_exists=True)
    return params is not None


def baseline(cfg: DictConfig, space: Space) -> dict[str, Any] | None:
    """The point of the space that a configuration lies on."""
    params = {}
    for dimension in space.dimensions:
        value = OmegaConf.select(cfg, dimension.key.lstrip("+"))
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value)
        point = dimension.find(value)
        if point is None:
            return None
        params[dimension.key] = point
    return params
