"""Settings of an environment's releases and its rollout strategy:
``infra/release/config/<env>.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from infra.release.errors import ReleaseError
from infra.release.verdict.policy import DEFAULT_POLICY, Policy, PolicyError, policy_of

StrategyName = Literal["canary", "linear", "blue-green", "all-at-once", "ab"]
STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)
MEANING = {
    "canary": "growing parts of the traffic, judged in between",
    "linear": "equal increments of the traffic, judged in between",
    "blue-green": "no traffic until golden images prove it, then all at once, watched by alarms",
    "all-at-once": "all traffic after the smoke test, watched by alarms",
    "ab": "holds a split, then goes back to stable and reports",
}


@dataclass(frozen=True)
class Step:
    """A part of the traffic for a while.

    Attributes:
        weight: share of the traffic that the candidate gets, 0 for none.
        bake_s: the step lasts this long at least.
        look_s: time between two looks at the evidence.
        proof: whether going on needs the verdict "promote", or just no proof of harm.
    """

    weight: float
    bake_s: float
    look_s: float
    proof: bool


# Without traffic there is no evidence but golden images.
GOLDEN_CHECKS = ("accuracy", "disagreement")


FOLDER = Path(__file__).parent / "config"
OnHold = Literal["roll back", "stop"]
Advance = Literal["no harm", "promote"]


@dataclass(frozen=True)
class Pace:
    """How one strategy moves.

    Attributes:
        weights: the candidate's share of the traffic in each step (canary; linear has `increment`).
        bake_s: shortest time of a step.
        look_s: time between two looks at the evidence.
        advance_on: what a step but the last asks for; the last always asks for proof.
    """

    weights: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5)
    increment: float = 0.1
    weight: float = 0.5  # of an A/B split
    bake_s: float = 600.0
    look_s: float = 120.0
    advance_on: Advance = "no harm"


@dataclass(frozen=True)
class Golden:
    """Labelled images that both versions are asked about."""

    per_look: int = 200
    concurrency: int = 4  # of the function's reserved concurrency, while it is replayed
    budget_s: float = 30.0  # of a look; what a slow version leaves over comes with the next one


@dataclass(frozen=True)
class Preflight:
    """What must hold before anything is changed."""

    account: str = ""  # "" lets any pass
    refused_severities: tuple[str, ...] = ("CRITICAL",)
    scan_required: bool = False
    signing_key: str = ""  # public key, a file or awskms:///…; "" asks for no signature
    builder: str = ""  # start of the URI of the only builder to trust; "" trusts each with the key
    model_registry: str = ""  # s3://bucket/prefix; "" asks no registry
    model_alias: str = "champion"


@dataclass(frozen=True)
class Settings:
    """Settings of one environment.

    Attributes:
        on_hold: what happens when the last step's evidence does not suffice within `most_hold_s`.
        watch_s: for how long alarms may still undo a promotion.
        settle_s: how long CloudWatch may take to show a log line.
        rollback_s: within which a rollback must have been verified.
    """

    strategy: StrategyName = "canary"
    on_hold: OnHold = "roll back"
    most_hold_s: float = 3600.0
    watch_s: float = 300.0
    poll_s: float = 5.0
    settle_s: float = 15.0
    lease_s: float = 60.0
    rollback_s: float = 30.0
    invoke_timeout_s: float = 20.0
    paces: Mapping[StrategyName, Pace] = field(default_factory=dict)
    golden: Golden = Golden()
    preflight: Preflight = Preflight()
    policy: Policy = DEFAULT_POLICY

    def pace(self, strategy: StrategyName) -> Pace:
        """The pace of a strategy, with defaults for what the file leaves out."""
        return self.paces.get(strategy, Pace())

    def steps(self, strategy: StrategyName) -> tuple[Step, ...]:
        """What a strategy does before it promotes."""
        pace = self.pace(strategy)
        weights = {
            "canary": pace.weights,
            "linear": _linear(pace.increment),
            "blue-green": (0.0,),
            "all-at-once": (),
            "ab": (pace.weight,),
        }[strategy]
        last = len(weights) - 1
        return tuple(
            Step(
                weight,
                pace.bake_s,
                pace.look_s,
                proof=strategy != "ab" and (place == last or pace.advance_on == "promote"),
            )
            for place, weight in enumerate(weights)
        )


def read_settings(env: str, file: Path | None = None) -> Settings:
    """Reads the settings of an environment, or of a file.

    Raises:
        ReleaseError: names the file, the key and what was expected.
    """
    path = file or FOLDER / f"{env}.toml"
    try:
        text = path.read_text("utf-8")
    except OSError as exc:
        there = ", ".join(sorted(found.stem for found in FOLDER.glob("*.toml")))
        raise ReleaseError(
            f"{path} cannot be read ({exc.strerror}): environments with a file are {there}; "
            "--config names another"
        ) from exc
    except UnicodeDecodeError as exc:
        raise ReleaseError(f"{path}: expected TOML in UTF-8 ({exc})") from exc
    try:
        return parse_settings(text)
    except ReleaseError as exc:
        raise ReleaseError(f"{path}: {exc}") from exc


def parse_settings(text: str) -> Settings:
    """Reads TOML whose keys are those of `Settings`; what it lacks has its default."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ReleaseError(f"no TOML: {exc}") from exc
    paces = {
        name: _check_pace(name, _read(Pace, document.pop(name), name))
        for name in STRATEGIES
        if name in document
    }
    parts: dict[str, Any] = {"paces": paces}
    for name, kind in (("golden", Golden), ("preflight", Preflight)):
        parts[name] = _read(kind, document.pop(name, {}), name)
    try:
        parts["policy"] = policy_of(_table("verdict", document.pop("verdict", {})))
    except PolicyError as exc:
        raise ReleaseError(f"verdict.{exc}") from exc
    settings: Settings = _read(Settings, document, "", parts)
    for name in ("poll_s", "lease_s", "rollback_s", "invoke_timeout_s"):
        _demand(getattr(settings, name) > 0, name, "more than 0", getattr(settings, name))
    for name in ("most_hold_s", "watch_s", "settle_s"):
        _demand(getattr(settings, name) >= 0, name, "0 or more", getattr(settings, name))
    return settings


def _linear(increment: float) -> tuple[float, ...]:
    return tuple(round(n * increment, 6) for n in range(1, 101) if n * increment < 1 - 1e-9)


def _check_pace(name: str, pace: Pace) -> Pace:
    for key in ("increment", "weight"):
        value = getattr(pace, key)
        _demand(0.001 <= value < 1, f"{name}.{key}", "a share from 0.001 to below 1", value)
    rising = all(low < high for low, high in zip((0.0, *pace.weights), pace.weights, strict=False))
    good = bool(pace.weights) and rising and pace.weights[-1] < 1
    _demand(good, f"{name}.weights", "rising shares between 0 and 1", list(pace.weights))
    _demand(pace.bake_s >= 0, f"{name}.bake_s", "0 or more", pace.bake_s)
    _demand(pace.look_s > 0, f"{name}.look_s", "more than 0", pace.look_s)
    return pace


def _table(place: str, found: Any) -> dict[str, Any]:
    _demand(isinstance(found, dict), place, "a table", found)
    return dict(found)


def _read(kind: Any, found: Any, place: str, parts: Mapping[str, Any] | None = None) -> Any:
    """A dataclass from a table, each value of the type of its default."""
    values = _table(place, found)
    parts = parts or {}
    defaults = {f.name: getattr(kind(), f.name) for f in fields(kind) if f.name not in parts}
    for name, value in values.items():
        at = f"{place}.{name}" if place else name
        known = (*defaults, *(_TABLES if kind is Settings else ()))
        _demand(name in defaults, at, f"one of {', '.join(known)}", "an unknown key")
        values[name] = _value(at, value, defaults[name])
    for name, choices in _CHOICES.items():
        if name in values:
            _demand(values[name] in choices, name, f"one of {', '.join(choices)}", values[name])
    return kind(**values, **parts)


_TABLES = (*STRATEGIES, "golden", "preflight", "verdict")
_CHOICES: dict[str, tuple[str, ...]] = {
    "strategy": STRATEGIES,
    "on_hold": get_args(OnHold),
    "advance_on": get_args(Advance),
}


def _value(place: str, value: Any, default: Any) -> Any:
    if isinstance(default, tuple):
        kind = type(default[0])
        kinds = (int, float) if kind is float else (kind,)
        good = isinstance(value, list) and all(type(item) in kinds for item in value)
        _demand(good, place, "a list like the default", value)
        return tuple(kind(item) for item in value)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    _demand(type(value) is type(default), place, f"a value like {default!r}", value)
    return value


def _demand(holds: bool, place: str, expected: str, found: Any) -> None:
    if not holds:
        raise ReleaseError(f"{place}: expected {expected}, got {found!r}")
