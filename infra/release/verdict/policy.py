"""The policy of a verdict: tolerated differences, error rates, and their file."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

CheckName = Literal[
    "errors",
    "refusals",
    "latency",
    "accuracy",
    "disagreement",
    "memory",
    "cold start",
    "log content",
    "class mix",
    "confidence",
    "labels",
]
CHECKS: tuple[CheckName, ...] = get_args(CheckName)

# How the tests share the false-alarm rate (Bonferroni). Most is accuracy's: golden images are few,
# and of requests there are always more. Class mix and confidence share theirs by drift's own rules.
# What a log must not hold is no matter of chance. Labelled answers, where they are looked for, have
# `_LABELS` of what accuracy has by itself: both tell of the same.
SHARES = {
    "errors": 0.15,
    "refusals": 0.1,
    "latency": 0.1,
    "accuracy": 0.4,
    "disagreement": 0.1,
    "memory": 0.025,
    "cold start": 0.025,
    "predictions": 0.1,
}
_LABELS = 0.1

ErrorRate = Annotated[float, Meta(gt=0, le=0.5)]
Share = Annotated[float, Meta(gt=0, lt=1)]
Tolerated = Annotated[float, Meta(ge=0)]


class PolicyError(ValueError):
    """The policy cannot be used; the message names the key and what was expected."""


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of one release.

    Two kinds of limit: above `tolerated_*` a proven difference rolls back, and a promotion needs
    proof that `harmful_*` is not reached. Between the two the release waits.
    """

    # Chance that a release without harm is ever rolled back, over all its tests and looks.
    false_alarm_rate: ErrorRate = 0.01
    # Chance that a release with harm of the size `harmful_*` is ever promoted.
    missed_harm_rate: ErrorRate = 0.001

    tolerated_error_excess: Tolerated = 0.001  # share of requests, above what stable does
    harmful_error_excess: Share = 0.005
    # Where stable fails often, as for one caller whose every request does, half a point is not to
    # be told from chance in a release's time: so many times stable's share instead.
    harmful_error_ratio: Annotated[float, Meta(ge=1)] = 2.0
    tolerated_refusal_excess: Tolerated = 0.005  # share of requests that one status refuses
    most_refused: Share = 0.1  # of requests, where stable's version does not report its own
    tolerated_latency_ratio: Annotated[float, Meta(ge=1)] = 1.25  # of p50 or p99, to stable's
    harmful_latency_ratio: float = 2.0
    tolerated_accuracy_loss: Tolerated = 0.0  # share of golden images
    harmful_accuracy_loss: Share = 0.01
    tolerated_wrong_excess: Tolerated = 0.01  # share of labelled answers, above stable's
    harmful_disagreement: Share = 0.15  # share of golden images answered differently
    # Share of calls that raise the peak of their environment's memory by a megabyte or more. One
    # that leaks does with every call; one that does not, seldom after its first calls.
    tolerated_memory_growth: Share = 0.2
    harmful_memory_growth: Share = 0.5  # above stable's
    harmful_memory_peak: Share = 0.9  # of the limit, where stable stays below: not promoted
    tolerated_cold_start_ratio: Annotated[float, Meta(gt=1)] = 2.0  # of the median, to stable's
    harmful_class_mix_psi: Annotated[float, Meta(gt=0)] = 0.25
    harmful_confidence_ks: Annotated[float, Meta(gt=0)] = 0.2
    fewest_images: Annotated[int, Meta(gt=0)] = 200  # of both arms, for class mix and confidence
    # Below so many candidate requests the replay of golden images carries a promotion: errors,
    # refusals and latency are proved by its calls, and the mix of predictions is not asked for.
    fewest_requests: Annotated[int, Meta(ge=0)] = 2000

    # What a promotion needs; the others may still roll back.
    required: Annotated[tuple[CheckName, ...], Meta(min_length=1)] = CHECKS
    # What is shown but never rolls back.
    informing: tuple[CheckName, ...] = ()

    def __post_init__(self) -> None:
        """Raises PolicyError where nothing lies between tolerated and harmful."""
        for what in ("error_excess", "latency_ratio", "accuracy_loss", "memory_growth"):
            if getattr(self, f"tolerated_{what}") >= getattr(self, f"harmful_{what}"):
                raise PolicyError(f"harmful_{what}: expected more than tolerated_{what}")
        if both := set(self.required) & set(self.informing):
            raise PolicyError(f"informing: {', '.join(sorted(both))} cannot be required as well")

    def odds_of_harm(self, test: str, *, labelled: bool = False) -> float:
        """What a test's odds must reach to roll back: chance reaches it with its share at most.

        Args:
            labelled: whether the release has labelled answers, too.
        """
        share = _LABELS if test == "labels" else SHARES[test]
        if labelled and test == "accuracy":
            share -= _LABELS
        return 1 / (self.false_alarm_rate * share)

    @property
    def odds_of_safety(self) -> float:
        """What odds must reach to call a limit kept."""
        return 1 / self.missed_harm_rate

    def rate_at_look(self, look: int) -> float:
        """For tests that are not made for looking again: this look's part, looks from 1 on.

        Parts a/(k(k+1)) sum to a over any number of looks, so a union bound covers all of them.
        """
        return self.false_alarm_rate * SHARES["predictions"] / (look * (look + 1))


DEFAULT_POLICY = Policy()

ProfileName = Literal["same model", "retrained", "low traffic"]
# A model trained anew answers many images differently and is as good: accuracy decides. At 10 % of
# answers changed 10,000 golden images rule out 2 points, and cannot rule out 1.
_RETRAINED = Policy(
    harmful_accuracy_loss=0.02,
    required=tuple(check for check in CHECKS if check != "disagreement"),
    informing=("disagreement",),
)
# What the limits are for each kind of release; a file's own keys win.
PROFILES: dict[ProfileName, Policy] = {
    # New code around the same network: hardly an answer changes, so a point lost is soon ruled out.
    "same model": DEFAULT_POLICY,
    "retrained": _RETRAINED,
    # Too few callers to prove anything by, whichever model it is.
    "low traffic": msgspec.structs.replace(_RETRAINED, fewest_requests=2**53),
}


def profile_policy(profile: ProfileName, overrides: Mapping[str, Any]) -> Policy:
    """A profile's limits with some of them overridden.

    Raises:
        PolicyError: an unknown key, or a value that makes no sense.
    """
    try:
        return msgspec.convert({**msgspec.structs.asdict(PROFILES[profile]), **overrides}, Policy)
    except msgspec.MsgspecError as exc:
        raise PolicyError(str(exc)) from exc


def parse_policy(text: str) -> Policy:
    """Reads TOML whose keys are those of `Policy`; what it lacks has its default.

    Raises:
        PolicyError: no TOML, an unknown key, or a value that makes no sense.
    """
    try:
        return msgspec.toml.decode(text, type=Policy)
    except msgspec.MsgspecError as exc:
        raise PolicyError(str(exc)) from exc
