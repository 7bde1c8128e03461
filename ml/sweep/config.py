"""The configuration of a sweep: its schema, its limits, and composing it with Hydra."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import MISSING, DictConfig
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from ml.runs.folder import direction
from ml.training.config import ConfigError, composed, composing


class SweepError(ValueError):
    """The sweep cannot start and nothing was trained; the message says what to do."""


def without_password(address: str) -> str:
    """The address with its password masked; empty for text that is not an address."""
    try:
        return make_url(address).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return "(not a database's address)"


SAMPLERS = ("tpe", "random", "grid", "nsga2")
PRUNERS = ("auto", "none", "median", "hyperband")
# Possible objectives: the metrics that `ml.training.module.ImageClassifier` logs, and measurements
# of the trained network. Never the test set, which would no longer be unseen.
METRICS = tuple(
    f"{of}/{name}" for of in ("val", "train") for name in ("accuracy", "loss", "macro_f1")
)
MEASURES = ("latency_ms", "model_bytes", "training_s")


@dataclass
class SweepConfig:
    """Settings of a sweep; configs/sweep/base.yaml explains the keys."""

    name: str = MISSING
    n_trials: int = MISSING
    maximize: list[str] = MISSING
    minimize: list[str] = MISSING
    overrides: list[str] = MISSING
    space: dict[str, str] = MISSING
    sampler: str = MISSING
    startup_trials: int = MISSING
    pruner: str = MISSING
    seed: int = MISSING
    start_from_defaults: bool = MISSING
    workers: int = MISSING
    threads: int | None = None
    storage: str | None = None
    heartbeat_s: int = MISSING
    grace_s: int = MISSING
    retries: int = MISSING
    max_failures: int = MISSING
    keep_checkpoints: int = MISSING
    experiment: str = MISSING
    folder: str = MISSING
    experiments: str = MISSING


@dataclass
class SweepCommandConfig:
    """The full configuration of `//ml:sweep`."""

    sweep: SweepConfig = field(default_factory=SweepConfig)


def register_sweep_schema() -> None:
    """Registers the schema with Hydra, under the names in configs/."""
    store = ConfigStore.instance()
    store.store(group="schema", name="sweep", node=SweepConfig)
    store.store(group="schema", name="sweep_command", node=SweepCommandConfig)


def check_settings(settings: DictConfig) -> None:
    """Rejects invalid settings of the right type.

    Raises:
        SweepError: names the key, the value and what was expected.
    """
    least = {
        "n_trials": 1,
        "workers": 1,
        "startup_trials": 1,
        "heartbeat_s": 1,
        "retries": 0,
        "max_failures": 1,
        "keep_checkpoints": -1,
        "seed": 0,
    }
    for key, bound in least.items():
        _expect(key, settings[key], settings[key] >= bound, f"a number from {bound} on")
    threads = settings.threads
    _expect("threads", threads, threads is None or threads >= 1, "a number from 1 on")
    _expect("sampler", settings.sampler, settings.sampler in SAMPLERS, f"one of {_list(SAMPLERS)}")
    _expect("pruner", settings.pruner, settings.pruner in PRUNERS, f"one of {_list(PRUNERS)}")
    longer = settings.grace_s >= 2 * settings.heartbeat_s
    _expect("grace_s", settings.grace_s, longer, "two heartbeats at least (sweep.heartbeat_s)")
    for key in ("name", "experiment"):
        _expect(key, settings[key], _is_file_name(settings[key]), "letters, digits, ., _ and -")
    _check_objectives(settings)


def _check_objectives(settings: DictConfig) -> None:
    for key in ("maximize", "minimize"):
        for name in settings[key]:
            known = name in METRICS + MEASURES
            _expect(key, f"[{name}]", known, f"any of {_list(METRICS + MEASURES)}")
            way = direction(name, "min")  # measured objectives are costs
            _expect(key, f"[{name}]", key.startswith(str(way)), f"it in sweep.{way}imize")
    objectives = [*settings.maximize, *settings.minimize]
    if not objectives or len(set(objectives)) < len(objectives):
        raise SweepError(
            f"sweep.maximize={settings.maximize} sweep.minimize={settings.minimize}: "
            "expected one objective at least, and each of them once"
        )
    pruning = settings.pruner in ("median", "hyperband")
    if pruning and (len(objectives) > 1 or objectives[0] not in METRICS):
        raise SweepError(
            f"sweep.pruner={settings.pruner} compares one metric epoch by epoch: "
            "with several objectives, or one that is measured after training, use pruner=none"
        )


def _expect(key: str, value: Any, holds: bool, expectation: str) -> None:
    if not holds:
        raise SweepError(f"sweep.{key}={value}: expected {expectation}")


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names)


def _is_file_name(text: str) -> bool:
    return bool(text) and text[0] not in ".-" and all(c.isalnum() or c in "._-" for c in text)


class _Search:
    extra: list[str] = []  # noqa: RUF012 (set once, before anything is composed)


@contextmanager
def configuration(config_dirs: Sequence[str] = ()) -> Iterator[None]:
    """Sets up Hydra with our configurations and additional folders."""
    register_sweep_schema()
    _Search.extra = [f"file://{Path(folder).absolute()}" for folder in config_dirs]
    with composing():
        yield


def hydra_loader() -> ConfigLoader:
    """The loader of groups; within `configuration`."""
    hydra = GlobalHydra.instance()
    assert hydra.is_initialized()
    return hydra.config_loader()


def compose_checked(name: str, overrides: Sequence[str]) -> DictConfig:
    """Hydra's compose, with readable errors; within `configuration`.

    Raises:
        SweepError: with Hydra's message.
    """
    search = [f"hydra.searchpath=[{','.join(_Search.extra)}]"] if _Search.extra else []
    try:
        return composed([*overrides, *search], name)
    except ConfigError as exc:
        raise SweepError(str(exc)) from exc
