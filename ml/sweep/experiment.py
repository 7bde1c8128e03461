"""Writes the best trial back as an experiment that ``//ml:train experiment=…`` runs."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial

from ml.files import write_whole
from ml.run_folder import run_config
from ml.sweep.compose import CONFIGS, compose_checked, elsewhere, hydra_loader
from ml.sweep.errors import SweepError
from ml.sweep.plan import Plan
from ml.sweep.space import parse_override
from ml.sweep.standings import shown_values

_MARK = "# Written by //ml:sweep"


def experiment_path(plan: Plan) -> Path:
    """Where the best trial is written."""
    return Path(plan.experiments) / f"{plan.experiment}.yaml"


def check_experiment_is_ours(plan: Plan) -> None:
    """Refuses to write over a file that no sweep wrote.

    Raises:
        SweepError: there is one.
    """
    path = experiment_path(plan)
    if path.exists() and _MARK not in path.read_text(encoding="utf-8"):
        raise SweepError(
            f"{path} was not written by a sweep and would be replaced: choose another name, "
            "sweep.experiment=…"
        )


def write_experiment(plan: Plan, best: FrozenTrial, found: int) -> Path:
    """Writes the trial's overrides as an experiment, proved to compose to what the trial ran.

    Within `ml.sweep.compose.configuration`.

    Raises:
        SweepError: it would not compose to the same: nothing was written.
    """
    overrides = [*plan.overrides, *plan.parse_space().overrides(best.params)]
    text = _header(plan, best, found) + experiment_text(plan.experiment, overrides)
    wanted = plan.compose_trial(plan.parse_space().overrides(best.params))
    if difference := _difference(plan, text, wanted):
        raise SweepError(f"experiment {plan.experiment} would not repeat the trial: {difference}")
    path = experiment_path(plan)
    write_whole(path, text)
    return path


def experiment_text(name: str, overrides: Sequence[str]) -> str:
    """The YAML of an experiment that does what a list of overrides does; later ones win."""
    experiments: dict[str, None] = {}
    groups: dict[str, str] = {}
    values = OmegaConf.create({"name": name})
    for text in overrides:
        override = parse_override(text, hydra_loader())
        key = override.key_or_group
        if not _is_group(key):
            OmegaConf.update(values, key, override.value(), force_add=True)
        elif key == "experiment":
            experiments = {} if override.value() is None else {str(override.value()): None}
        else:
            groups[f"override /{key}"] = override.value()  # type: ignore[assignment]
    defaults = [*experiments, "_self_", *({key: value} for key, value in groups.items())]
    # Hydra wants what overrides groups at the end.
    head = {"defaults": defaults} if len(defaults) > 1 else {}
    return OmegaConf.to_yaml(OmegaConf.merge(head, values))


def _header(plan: Plan, best: FrozenTrial, found: int) -> str:
    names = [name for name, _ in plan.objectives]
    return (
        "# @package _global_\n"
        f"# {train_command(plan)}\n"
        f"{_MARK}: the best of {found} finished trials of the study {plan.name}, "
        f"trial {best.number}: {shown_values(names, best)}.\n"
        f"# {plan.typed}\n"
    )


def train_command(plan: Plan) -> str:
    """What trains the experiment."""
    return " ".join(("bazel run //ml:train", *plan.flags, f"experiment={plan.experiment}"))


def _difference(plan: Plan, text: str, wanted: DictConfig) -> str:
    """The first key that an experiment's text sets to something else than wanted."""
    with tempfile.TemporaryDirectory(prefix="kiln-experiment-") as folder:
        configs = Path(folder) / "configs"
        shutil.copytree(CONFIGS, configs, ignore=shutil.ignore_patterns("BUILD.bazel"))
        target = configs / "experiment" / f"{plan.experiment}.yaml"
        target.unlink(missing_ok=True)
        target.write_text(text, encoding="utf-8")
        with elsewhere(configs):
            got = compose_checked("train", [f"experiment={plan.experiment}", "conclude=false"])
    have, want = _flat(run_config(got)), _flat(run_config(wanted))
    for key in sorted(have.keys() | want.keys()):
        if key != "name" and have.get(key) != want.get(key):
            return f"{key} would be {have.get(key)} instead of {want.get(key)}"
    return ""


def _flat(cfg: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(cfg, DictConfig):
        return {prefix: cfg}
    found: dict[str, Any] = {}
    for key in cfg:
        found |= _flat(cfg[key], f"{prefix}.{key!s}" if prefix else str(key))
    return found


def _is_group(key: str) -> bool:
    loader = hydra_loader()
    return "." not in key and bool(loader.get_group_options(key, ObjectType.CONFIG))
