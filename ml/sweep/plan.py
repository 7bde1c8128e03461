"""Checks a sweep's command line and turns it into a `Plan`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ml.sweep.settings import (
    METRICS,
    Space,
    SweepError,
    check_settings,
    compose_checked,
    hydra_loader,
    parse_override,
    without_password,
)
from ml.training.config import ConfigError, check_values

# How, where and under which name a run is started; a sweep sets these itself.
_OURS = ("name", "conclude", "resume", "rerun", "paths")


@dataclass(frozen=True)
class Plan:
    """A checked sweep, as passed to the workers.

    Attributes:
        command: the typed arguments, without a password.
        objectives: name and direction; the first one ranks the trials.
        overrides: overrides of ``//ml:train`` for every trial.
        space: key to values, as typed.
        storage: a database, or None for the journal in the folder.
        pruner: resolved, never ``auto``.
        max_epochs: maximum epochs of a trial, for the pruner.
        threads: per worker; None divides the cores.
        config_dirs: additional folders of configurations.
    """

    name: str
    command: tuple[str, ...]
    folder: str
    objectives: tuple[tuple[str, str], ...]
    overrides: tuple[str, ...]
    space: dict[str, str]
    n_trials: int
    sampler: str
    startup_trials: int
    pruner: str
    max_epochs: int
    seed: int
    start_from_defaults: bool
    workers: int
    threads: int | None
    storage: str | None
    heartbeat_s: int
    grace_s: int
    retries: int
    max_failures: int
    keep_checkpoints: int
    experiment: str
    experiments: str
    config_dirs: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The plan as JSON, for another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Inverse of `to_json`."""
        values = json.loads(text)
        for key in ("command", "overrides", "config_dirs"):
            values[key] = tuple(values[key])
        values["objectives"] = tuple((name, way) for name, way in values["objectives"])
        return cls(**values)

    def trial_folder(self, number: int) -> Path:
        return Path(self.folder) / "trials" / f"{number:04}"

    def parse_space(self) -> Space:
        """The search space; within `configuration`, whose groups ``glob`` searches."""
        return Space.parse(self.space, hydra_loader())

    @property
    def typed(self) -> str:
        """The command line of this sweep."""
        return " ".join(("bazel run //ml:sweep", *self.flags, *map(_quoted, self.command)))

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags that give ``//ml:train`` and ``//ml:sweep`` the additional configurations."""
        folders = (text for folder in self.config_dirs for text in ("--config-dir", folder))
        return ("--", *folders) if self.config_dirs else ()

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that must not change when a sweep continues, or its trials would not be
        comparable.
        """
        return {
            "objectives": [list(objective) for objective in self.objectives],
            "overrides": list(self.overrides),
            "space": self.space,
        }

    def compose_trial(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of one trial; within `configuration`."""
        return compose_checked("train", [*self.overrides, *overrides, "conclude=false"])


def _quoted(text: str) -> str:
    return f"'{text}'" if any(character in text for character in "()[]{} *$") else text


def make_plan(arguments: Sequence[str], config_dirs: Sequence[str] = ()) -> Plan:
    """The plan of a command line; within `configuration`.

    Raises:
        SweepError: something is unknown, invalid or of the wrong type; every end of every range and
            every choice is composed with the rest.
    """
    ours, fixed, searched = _sort(arguments)
    settings = compose_checked("sweep", ours).sweep
    check_settings(settings)
    overrides = [*settings.overrides, *fixed.values()]
    for text in overrides:
        _check_fixed(parse_override(text))
    space = {key: text for key, text in settings.space.items() if key not in fixed} | searched
    for key in space:
        _check_key(key, f"{key}={space[key]}")
    base = _try_all(overrides, Space.parse(space, hydra_loader()))
    _check_grid(settings.sampler, space)
    objectives = _objectives(settings)
    return Plan(
        command=tuple(_without_secrets(text) for text in arguments),
        objectives=objectives,
        overrides=tuple(overrides),
        space=space,
        pruner=_pruner(settings.pruner, objectives),
        max_epochs=base.trainer.max_epochs,
        folder=str(Path(settings.folder).absolute()),
        experiments=str(Path(settings.experiments).absolute()),
        config_dirs=tuple(config_dirs),
        **{key: settings[key] for key in _COPIED},
    )


_COPIED = (
    *("name", "n_trials", "sampler", "startup_trials", "seed", "start_from_defaults", "workers"),
    *("threads", "storage", "heartbeat_s", "grace_s", "retries", "max_failures"),
    *("keep_checkpoints", "experiment"),
)


def _sort(arguments: Sequence[str]) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """Splits overrides into those of the sweep, those of all trials, and the search space by key;
    the last one wins.
    """
    ours: list[str] = []
    fixed: dict[str, str] = {}
    searched: dict[str, str] = {}
    for text in arguments:
        override = parse_override(text, hydra_loader())
        key = override.get_key_element()
        if key.lstrip("+").split(".")[0] == "sweep":
            ours.append(text)
            continue
        fixed.pop(key, None)
        searched.pop(key, None)
        if override.is_sweep_override():
            searched[key] = override.get_value_string()
        else:
            fixed[key] = text
    return ours, fixed, searched


def _without_secrets(text: str) -> str:
    key, _, value = text.partition("=")
    return f"{key}={without_password(value)}" if key == "sweep.storage" else text


def _check_fixed(override: Override) -> None:
    text = override.input_line
    if override.is_sweep_override():
        raise SweepError(f"{text} in sweep.overrides is a search space: move it to sweep.space")
    if override.type == OverrideType.DEL:
        raise SweepError(
            f"{text}: a deletion cannot be written back as an experiment; "
            "make an experiment that lacks the key and choose it"
        )
    _check_key(override.get_key_element(), f"{text}")


def _check_key(key: str, text: str) -> None:
    name = key.lstrip("+").split(".")[0].split("/")[0]
    if name in _OURS or name == "hydra":
        raise SweepError(f"{text}: a sweep sets {name} itself, leave it out")
    if "@" in key:
        raise SweepError(f"{text}: a package (@) cannot be written back as an experiment")


def _try_all(overrides: Sequence[str], space: Space) -> DictConfig:
    """Composes the default configuration, and one for every end and choice; returns the first."""
    base = _checked(compose_checked("train", overrides))
    for probe in space.probes():
        try:
            _checked(compose_checked("train", [*overrides, *probe]))
        except SweepError as exc:
            hint = _whole_number_hint(str(exc), space)
            raise SweepError(f"{exc}\nTried: {' '.join(probe)}{hint}") from exc
    return base


def _checked(cfg: DictConfig) -> DictConfig:
    try:
        check_values(cfg)
        OmegaConf.resolve(cfg)
    except (ConfigError, OmegaConfBaseException) as exc:
        raise SweepError(str(exc)) from exc
    return cfg


def _whole_number_hint(message: str, space: Space) -> str:
    if "Integer" not in message:
        return ""
    keys = [d.key for d in space.dimensions if f"{d.key}=" in message.split("\n")[0]]
    return "".join(f"\n{key} takes whole numbers: {key}=int(interval(a,b))" for key in keys)


def _check_grid(sampler: str, space: dict[str, str]) -> None:
    if sampler != "grid":
        return
    for dimension in Space.parse(space, hydra_loader()).dimensions:
        if dimension.size is None:
            raise SweepError(
                f"sampler=grid needs values that can be counted, {dimension.key}={dimension.text} "
                "has none: use choice(…) or range(a,b,step=c)"
            )


def _objectives(settings: DictConfig) -> tuple[tuple[str, str], ...]:
    """Objectives to maximise first, otherwise in the given order."""
    return tuple(
        (name, direction) for direction in ("maximize", "minimize") for name in settings[direction]
    )


def _pruner(asked: str, objectives: Sequence[tuple[str, str]]) -> str:
    if asked != "auto":
        return asked
    return "median" if len(objectives) == 1 and objectives[0][0] in METRICS else "none"
