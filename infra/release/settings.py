"""Settings of an environment's releases, ``infra/release/config/<env>.toml``, and what its rollout
strategies do."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, field

from infra.release.errors import ReleaseError
from infra.release.verdict.policy import PROFILES, Policy, PolicyError, ProfileName, profile_policy

StrategyName = Literal["canary", "linear", "blue-green", "all-at-once", "ab"]
STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)
MEANING = {
    "canary": "growing parts of the traffic, judged in between",
    "linear": "equal increments of the traffic, judged in between",
    "blue-green": "no traffic until golden images prove it, then all at once, watched by alarms",
    "all-at-once": "all traffic after the smoke test, watched by alarms",
    "ab": "holds a split, then goes back to stable and reports",
}
_DEPLOYING_S = 600.0
FOLDER = Path(__file__).parent / "config"

Seconds = Annotated[float, Meta(ge=0)]
SecondsAboveZero = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0.001, lt=1)]


class Step(msgspec.Struct, frozen=True):
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


class Pace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one strategy moves.

    Attributes:
        weights: the candidate's share of the traffic in each step (canary).
        increment: by which the share grows (linear).
        weight: the candidate's share (ab).
        bake_s: shortest time of a step.
        look_s: time between two looks at the evidence.
        advance_on: what a step but the last asks for; the last always asks for proof.
    """

    weights: Annotated[tuple[float, ...], Meta(min_length=1)] = (0.05, 0.1, 0.25, 0.5)
    increment: Share = 0.1
    weight: Share = 0.5
    bake_s: Seconds = 600.0
    look_s: SecondsAboveZero = 120.0
    advance_on: Literal["no harm", "promote"] = "no harm"

    def __post_init__(self) -> None:
        if any(low >= high for low, high in pairwise((0.0, *self.weights, 1.0))):
            raise ValueError("weights: expected rising shares between 0 and 1")


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Labelled images that both versions are asked about."""

    per_look: int = 200
    concurrency: int = 4  # of the function's reserved concurrency, while it is replayed
    budget_s: float = 30.0  # of a look; what a slow version leaves over comes with the next one


class Labels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Captured answers whose right class is known, as evidence beside golden images."""

    captures: str = ""  # a folder or s3://bucket/prefix, as KILN_CAPTURE; "" looks for no labels
    # The chance of the surest answer to be captured (KILN_CAPTURE_SHARE) times that of being shown.
    least_chance: Annotated[float, Meta(gt=0, le=1)] = 0.1


class Preflight(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the preflight checks."""

    account: str = ""  # "" lets any pass
    refused_severities: tuple[str, ...] = ("CRITICAL",)
    scan_required: bool = False
    signing_key: str = ""  # public key, a file or awskms:///…; "" asks for no signature
    builder: str = ""  # start of the URI of the only builder to trust; "" trusts each with the key
    model_registry: str = ""  # s3://bucket/prefix; "" asks no registry
    model_alias: str = "champion"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of one environment, by their names in the file.

    Attributes:
        on_hold: what happens when the last step's evidence does not suffice within `most_hold_s`.
        watch_s: for how long alarms may still undo a promotion.
        settle_s: how long CloudWatch may take to show a log line.
        rollback_s: within which a rollback must have been verified.
        profile: whose limits the verdict takes; "by model" looks whether the model is stable's.
        verdict: limits that differ from the profile's, by their names in `Policy`.
    """

    strategy: StrategyName = "canary"
    on_hold: Literal["roll back", "stop"] = "roll back"
    most_hold_s: Seconds = 600.0
    watch_s: Seconds = 300.0
    poll_s: SecondsAboveZero = 5.0
    settle_s: Seconds = 15.0
    lease_s: SecondsAboveZero = 60.0
    rollback_s: SecondsAboveZero = 30.0
    invoke_timeout_s: SecondsAboveZero = 20.0
    canary: Pace = Pace()
    linear: Pace = Pace(bake_s=240.0, look_s=60.0)  # nine steps, within an hour
    blue_green: Pace = field(default=Pace(), name="blue-green")
    all_at_once: Pace = field(default=Pace(), name="all-at-once")
    ab: Pace = Pace()
    golden: Golden = Golden()
    labels: Labels = Labels()
    preflight: Preflight = Preflight()
    profile: ProfileName | Literal["by model"] = "by model"
    verdict: dict[str, Any] = {}

    def __post_init__(self) -> None:
        for profile in PROFILES:
            try:
                profile_policy(profile, self.verdict)
            except PolicyError as exc:
                place = str(exc).replace("`$", "`$.verdict")
                at = "" if "`$" in place else " - at `$.verdict`"
                raise ValueError(place + at) from exc

    def policy(self, *, is_same_model: bool) -> Policy:
        """The limits of a release, whose candidate has stable's model or another."""
        by_model: ProfileName = "same model" if is_same_model else "retrained"
        profile = by_model if self.profile == "by model" else self.profile
        return profile_policy(profile, self.verdict)

    def longest_s(self, strategy: StrategyName) -> float:
        """Seconds from the first look at AWS to the end of a release, if each wait is used up;
        Terraform and Lambda are given ten minutes of it."""
        steps = self.steps(strategy)
        waits_s = sum(max(step.bake_s, step.look_s + self.settle_s) for step in steps)
        held_s = self.most_hold_s if any(step.proof for step in steps) else 0.0
        return _DEPLOYING_S + waits_s + held_s + self.watch_s + 2 * self.rollback_s

    def steps(self, strategy: StrategyName) -> tuple[Step, ...]:
        """What a strategy does before it promotes."""
        pace: Pace = getattr(self, strategy.replace("-", "_"))
        weights = {
            "canary": pace.weights,
            "linear": _equal_steps(pace.increment),
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


def _equal_steps(increment: float) -> tuple[float, ...]:
    return tuple(round(n * increment, 6) for n in range(1, 101) if n * increment < 1 - 1e-9)


def read_settings(env: str, file: Path | None = None) -> Settings:
    """Reads the settings of an environment, or of a file.

    Raises:
        ReleaseError: names the file, the key and what was expected.
    """
    path = file or FOLDER / f"{env}.toml"
    try:
        return parse_settings(path.read_text("utf-8"))
    except OSError as exc:
        there = ", ".join(sorted(found.stem for found in FOLDER.glob("*.toml")))
        raise ReleaseError(
            f"{path} cannot be read ({exc.strerror}): environments with a file are {there}; "
            "--config names another"
        ) from exc
    except UnicodeDecodeError as exc:
        raise ReleaseError(f"{path}: expected TOML in UTF-8 ({exc})") from exc
    except ReleaseError as exc:
        raise ReleaseError(f"{path}: {exc}") from exc


def parse_settings(text: str) -> Settings:
    """Reads TOML whose keys are those of `Settings`; what it lacks has its default.

    Raises:
        ReleaseError: names the key and what was expected.
    """
    try:
        return msgspec.toml.decode(text, type=Settings)
    except msgspec.MsgspecError as exc:
        raise ReleaseError(f"{exc}; infra/release/README.md lists all keys") from exc
