"""The policy of a verdict: tolerated differences, error rates, and their file."""

import tomllib
from dataclasses import dataclass, fields
from typing import Any

CHECKS = ("errors", "latency", "accuracy", "disagreement", "class mix", "confidence")

# How the tests share the false-alarm rate (Bonferroni). Half is accuracy's: golden images are few,
# and of requests there are always more. Class mix and confidence share theirs by drift's own rules.
SHARES = {"errors": 0.2, "latency": 0.1, "accuracy": 0.5, "disagreement": 0.1, "answers": 0.1}


class PolicyError(ValueError):
    """The policy cannot be used; the message names the key and what was expected."""


@dataclass(frozen=True)
class Policy:
    """Limits of one release.

    Two kinds of limit: above `tolerated_*` a proven difference rolls back, and a promotion needs
    proof that `harmful_*` is not reached. Between the two the release waits.
    """

    # Chance that a release without harm is ever rolled back, over all its tests and looks.
    false_alarm_rate: float = 0.01
    # Chance that a release with harm of the size `harmful_*` is ever promoted.
    missed_harm_rate: float = 0.01

    tolerated_error_excess: float = 0.001  # share of requests, above what stable does
    harmful_error_excess: float = 0.005
    tolerated_latency_ratio: float = 1.25  # of p50 or p99, to stable's
    harmful_latency_ratio: float = 2.0
    tolerated_accuracy_loss: float = 0.0  # share of golden images
    harmful_accuracy_loss: float = 0.01
    harmful_disagreement: float = 0.15  # share of golden images answered differently
    harmful_class_mix_psi: float = 0.25
    harmful_confidence_ks: float = 0.2
    fewest_images: int = 200  # of both arms, before class mix and confidence count

    # What a promotion needs; the others may still roll back.
    required: tuple[str, ...] = CHECKS

    def __post_init__(self) -> None:
        """Raises PolicyError on values that make no sense."""
        for name in ("false_alarm_rate", "missed_harm_rate"):
            self._demand(0 < getattr(self, name) <= 0.5, name, "a share above 0, at most 0.5")
        for low, high, least in (
            ("tolerated_error_excess", "harmful_error_excess", 0.0),
            ("tolerated_latency_ratio", "harmful_latency_ratio", 1.0),
            ("tolerated_accuracy_loss", "harmful_accuracy_loss", 0.0),
        ):
            self._demand(getattr(self, low) >= least, low, f"{least:g} or more")
            self._demand(getattr(self, low) < getattr(self, high), high, f"more than {low}")
        for name in ("harmful_error_excess", "harmful_accuracy_loss", "harmful_disagreement"):
            self._demand(0 < getattr(self, name) < 1, name, "a share between 0 and 1")
        for name in ("harmful_class_mix_psi", "harmful_confidence_ks", "fewest_images"):
            self._demand(getattr(self, name) > 0, name, "a number above 0")
        unknown = set(self.required) - set(CHECKS)
        self._demand(bool(self.required) and not unknown, "required", f"some of {CHECKS}")

    def _demand(self, holds: bool, name: str, expected: str) -> None:
        if not holds:
            raise PolicyError(f"{name}: expected {expected}, got {getattr(self, name)!r}")

    def odds_of_harm(self, test: str) -> float:
        """What a test's odds must reach to roll back: chance reaches it with its share at most."""
        return 1 / (self.false_alarm_rate * SHARES[test])

    @property
    def odds_of_safety(self) -> float:
        """What odds must reach to call a limit kept."""
        return 1 / self.missed_harm_rate

    def rate_at_look(self, look: int) -> float:
        """For tests that are not made for looking again: this look's part, looks from 1 on.

        Parts a/(k(k+1)) sum to a over any number of looks, so a union bound covers all of them.
        """
        return self.false_alarm_rate * SHARES["answers"] / (look * (look + 1))


DEFAULT_POLICY = Policy()


def parse_policy(text: str) -> Policy:
    """Reads TOML whose keys are those of `Policy`; what it lacks has its default.

    Raises:
        PolicyError: no TOML, an unknown key, or a value that makes no sense.
    """
    try:
        return policy_of(tomllib.loads(text))
    except tomllib.TOMLDecodeError as exc:
        raise PolicyError(f"no TOML: {exc}") from exc


def policy_of(document: dict[str, Any]) -> Policy:
    """The policy in a parsed table."""
    kinds = {field.name: type(getattr(DEFAULT_POLICY, field.name)) for field in fields(Policy)}
    values = dict(document)
    for name, value in document.items():
        if name not in kinds:
            raise PolicyError(f"unknown key {name!r}; there are {', '.join(kinds)}")
        if kinds[name] is tuple:
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise PolicyError(f"{name}: expected a list of texts, got {value!r}")
            values[name] = tuple(value)
        elif kinds[name] is float and isinstance(value, int) and not isinstance(value, bool):
            values[name] = float(value)
        elif type(value) is not kinds[name]:
            raise PolicyError(f"{name}: expected a number, got {value!r}")
    return Policy(**values)
