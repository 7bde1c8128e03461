"""What a sweep is told: its configuration, composed with Hydra, and its search space.

The space is written in Hydra's sweep syntax and becomes Optuna's distributions.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    RangeSweep,
    Transformer,
)
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig
from optuna.distributions import (
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import BaseTrial
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
    _expect(
        "sampler", settings.sampler, settings.sampler in SAMPLERS, f"one of {', '.join(SAMPLERS)}"
    )
    _expect("pruner", settings.pruner, settings.pruner in PRUNERS, f"one of {', '.join(PRUNERS)}")
    longer = settings.grace_s >= 2 * settings.heartbeat_s
    _expect("grace_s", settings.grace_s, longer, "two heartbeats at least (sweep.heartbeat_s)")
    for key in ("name", "experiment"):
        _expect(key, settings[key], _is_file_name(settings[key]), "letters, digits, ., _ and -")
    _check_objectives(settings)


def _check_objectives(settings: DictConfig) -> None:
    for key in ("maximize", "minimize"):
        for name in settings[key]:
            known = name in METRICS + MEASURES
            _expect(key, f"[{name}]", known, f"any of {', '.join(METRICS + MEASURES)}")
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


Distribution = CategoricalDistribution | FloatDistribution | IntDistribution

_SYNTAX = (
    "choice(a,b), interval(a,b), int(interval(a,b)), range(a,b,step=c), tag(log,interval(a,b))"
)


@dataclass(frozen=True)
class Dimension:
    """A key of the configuration with its possible values.

    Attributes:
        key: as in an override, such as ``optimizer.filter_lr``.
        text: the values as typed.
        distribution: the values for Optuna; choices are texts of overrides, so that lists and
            groups can be chosen, too.
    """

    key: str
    text: str
    distribution: Distribution

    def override(self, value: CategoricalChoiceType) -> str:
        return f"{self.key}={value}"

    def probes(self) -> list[str]:
        """The overrides at the ends of the range, or for every choice."""
        if isinstance(self.distribution, CategoricalDistribution):
            return [self.override(choice) for choice in self.distribution.choices]
        return [self.override(self.distribution.low), self.override(self.distribution.high)]

    @property
    def size(self) -> int | None:
        """Number of values; None for a continuous range."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return len(choices)
            case FloatDistribution(step=None):
                return None
            case FloatDistribution(low=low, high=high, step=float(step)):
                return round((high - low) / step) + 1
            case IntDistribution(low=low, high=high, step=step):
                return (high - low) // step + 1
        raise AssertionError(self.distribution)

    def suggest(self, trial: BaseTrial) -> CategoricalChoiceType:
        """A trial's value, stored in the study."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return trial.suggest_categorical(self.key, choices)
            case FloatDistribution(low=low, high=high, step=step, log=log):
                return trial.suggest_float(self.key, low, high, step=step, log=log)
            case IntDistribution(low=low, high=high, step=step, log=log):
                return trial.suggest_int(self.key, low, high, step=step, log=log)

    def find(self, value: Any) -> CategoricalChoiceType | None:
        """The point of the dimension for a plain value of the configuration, if there is one."""
        if isinstance(self.distribution, CategoricalDistribution):
            for choice in self.distribution.choices:
                if parse_override(self.override(choice)).value() == value:
                    return choice
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        low, high, step = self.distribution.low, self.distribution.high, self.distribution.step
        steps = (value - low) / step if step else 0.0
        on_grid = math.isclose(steps, round(steps), abs_tol=1e-9)
        return value if low <= value <= high and on_grid else None


@dataclass(frozen=True)
class Space:
    dimensions: tuple[Dimension, ...]

    @classmethod
    def parse(cls, entries: Mapping[str, str], loader: ConfigLoader | None = None) -> "Space":
        """The space of ``{key: values in Hydra's sweep syntax}``; ``loader`` resolves ``glob``.

        Raises:
            SweepError: names the key, the value and what was expected.
        """
        if not entries:
            raise SweepError(
                "there is nothing to search: give a key values to try, "
                f"for example 'label_smoothing=interval(0,0.3)'. The syntax: {_SYNTAX}"
            )
        return cls(tuple(_dimension(key, text, loader) for key, text in entries.items()))

    @property
    def size(self) -> int | None:
        """Number of points; None if a dimension is continuous."""
        sizes = [dimension.size for dimension in self.dimensions]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    def suggest(self, trial: BaseTrial) -> list[str]:
        return [dimension.override(dimension.suggest(trial)) for dimension in self.dimensions]

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """The overrides of stored values."""
        return [dimension.override(params[dimension.key]) for dimension in self.dimensions]

    def probes(self) -> list[list[str]]:
        """A few sets of overrides that include every end and every choice."""
        columns = [dimension.probes() for dimension in self.dimensions]
        rows = max(len(column) for column in columns)
        return [[column[min(row, len(column) - 1)] for column in columns] for row in range(rows)]


def parse_override(text: str, loader: ConfigLoader | None = None) -> Override:
    """Parses an override as Hydra does.

    Raises:
        SweepError: it is malformed.
    """
    try:
        (override,) = OverridesParser.create(loader).parse_overrides([text])
    except HydraException as exc:
        detail = str(exc).split("\nSee https")[0]
        raise SweepError(f"{text}: {detail}") from exc
    return override


def _dimension(key: str, text: str, loader: ConfigLoader | None) -> Dimension:
    override = parse_override(f"{key}={text}", loader)
    if not override.is_sweep_override():
        raise SweepError(
            f"{key}={text} is one value and no search: list it in sweep.overrides, "
            f"or write one of {_SYNTAX}"
        )
    value = override.value()
    tags = set(getattr(value, "tags", ()))
    if unknown := tags - {"log"}:
        raise SweepError(f"{key}={text}: unknown tag {', '.join(sorted(unknown))}; there is log")
    log = "log" in tags
    try:
        if isinstance(value, IntervalSweep):
            distribution: Distribution = _interval(value, log)
        elif isinstance(value, RangeSweep):
            distribution = _range(value, log)
        else:
            distribution = _choice(override, log)
    except (ValueError, HydraException) as exc:
        raise SweepError(f"{key}={text}: {exc}") from exc
    return Dimension(key, text, distribution)


def _interval(value: IntervalSweep, log: bool) -> Distribution:
    """Continuous between two ends; whole numbers, both ends included, if cast to int."""
    low, high = value.start, value.end
    assert low is not None
    assert high is not None
    _check_ends(low, high, log)
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _range(value: RangeSweep, log: bool) -> Distribution:
    """A range as in Python, excluding the stop."""
    start, stop, step = value.start, value.stop, value.step
    assert start is not None
    assert stop is not None
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"the step must be above 0, got {step}")
    if not (math.isfinite(start) and math.isfinite(stop) and start < stop):
        raise ValueError(f"the range is empty, {start} must be below {stop}")
    # In decimals, as in Hydra: in binary 0.1 * 3 is not 0.3.
    first, past, width = (Decimal(str(number)) for number in (start, stop, step))
    count = math.ceil((past - first) / width)
    last = first + (count - 1) * width
    _check_ends(float(first), float(last), log)
    if log and step != 1:
        raise ValueError("a logarithmic range has no step: use tag(log,int(interval(a,b)))")
    if isinstance(start, int) and isinstance(stop, int) and isinstance(step, int):
        return IntDistribution(start, int(last), step=step, log=log)
    if log:
        raise ValueError("only whole numbers have a logarithmic range: use tag(log,interval(a,b))")
    return FloatDistribution(float(first), float(last), step=float(width))


def _choice(override: Override, log: bool) -> CategoricalDistribution:
    if log:
        raise ValueError("choices have no order, log is for intervals")
    value = override.value()
    # Not only override.sweep_iterator(): shuffled values must keep their order for the sweep to
    # continue.
    elements = value.list if isinstance(value, ChoiceSweep) else list(override.sweep_iterator())
    texts = [_text(element) for element in elements]
    if twice := sorted({text for text in texts if texts.count(text) > 1}):
        raise ValueError(f"{', '.join(twice)} is duplicated")
    if len(texts) < 2:
        raise ValueError(f"a search needs at least two values, got {texts}")
    return CategoricalDistribution(texts)


def _text(element: Any) -> str:
    return str(element).lower() if isinstance(element, bool) else Transformer.str(element)


def _check_ends(low: float, high: float, log: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"the ends must be finite, got {low} and {high}")
    if low >= high:
        raise ValueError(f"the interval is empty, {low} must be below {high}")
    if log and low <= 0:
        raise ValueError(f"a logarithmic interval must start above 0, got {low}")
