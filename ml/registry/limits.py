"""Limits of the promotion gates, and the result of one gate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ml.registry.store import RegistryError


@dataclass(frozen=True)
class Limits:
    """The limits of all gates."""

    margin: float = 0.01  # share of images; how much accuracy the champion may be missed by
    alpha: float = 0.05  # probability of passing a model that is worse than that
    must_be_better: bool = False  # than the champion, significantly
    min_accuracy: float = 0.0
    accuracy_drift: float = 0.002  # between what the artifact says and what is measured here
    max_calibration_error: float = 0.05
    max_bytes: int = 16_000_000
    p99_ms: float = 25.0  # one image, one thread

    def __post_init__(self) -> None:
        """Refuse what no gate can stand at."""
        shares = {"margin": 1.0, "alpha": 0.5, "min_accuracy": 1.0, "max_calibration_error": 1.0}
        for name, most in shares.items():
            if not 0 <= getattr(self, name) <= most:
                option = f"--{name.replace('_', '-')}"
                raise RegistryError(f"{option} {getattr(self, name)}: expected 0 to {most:g}")
        if not self.alpha or self.max_bytes <= 0 or not self.p99_ms > 0:
            raise RegistryError("--alpha, --max-bytes and --p99-ms must be above 0")


@dataclass(frozen=True)
class Gate:
    """The result of one gate."""

    name: str
    passed: bool
    detail: str
    values: dict[str, Any] = field(default_factory=dict)
