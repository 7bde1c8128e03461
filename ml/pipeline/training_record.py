"""What is worth knowing of a training after its process has ended: written by `train`, read by
`export`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ml.files import write_whole


@dataclass(frozen=True)
class TrainingRecord:
    """How a network came about, beside its configuration and its metrics.

    Attributes:
        device: as `ml.hardware.describe_device` says it.
        temperature: by which the logits were divided, see `ml.calibration`.
        lock_digest: SHA-256 in hex of the lock of all packages.
        parameters: how many numbers were trained.
        training_s: seconds, interruptions left out.
    """

    device: str
    precision: str
    temperature: float
    git_revision: str
    lock_digest: str
    parameters: int
    best_epoch: int
    training_s: float

    def write(self, path: Path) -> None:
        write_whole(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> "TrainingRecord":
        """Raises TypeError if keys are missing or unknown."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))
