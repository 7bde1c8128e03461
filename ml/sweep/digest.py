"""What makes two trials the same: configuration, data, code and packages."""

import hashlib
from functools import cache
from pathlib import Path

from omegaconf import DictConfig

from ml.data.cifar10 import dataset_digest, locate
from ml.provenance import lock_digest
from ml.run_folder import config_digest

ROOT = Path(__file__).absolute().parents[2]
# What runs in a trial: all of ml but its programs' own packages; of the sweep, what trains.
_CODE = ("ml/*.py", "ml/data/*.py", "ml/sweep/training.py", "serve/contract/*.py")


def trial_digest(cfg: DictConfig) -> str:
    """SHA-256 in hex of a trial: equal for trials that would compute the same."""
    parts = (config_digest(cfg), data_digest(cfg.data.get("folder")), code_digest(), lock_digest())
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


@cache  # reads the dataset whole
def data_digest(folder: str | None) -> str:
    """SHA-256 in hex of the dataset in a folder, or in the usual places."""
    return dataset_digest(Path(folder) if folder else locate())


@cache
def code_digest(root: Path = ROOT) -> str:
    """SHA-256 in hex of the sources that training may run."""
    files = sorted(path for pattern in _CODE for path in root.glob(pattern))
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
    return digest.hexdigest()
