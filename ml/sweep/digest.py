"""The digest of a trial: configuration, data, code and packages."""

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ml.runs.folder import config_digest
from ml.runs.provenance import lock_digest
from ml.training.config import DataConfig

ROOT = Path(__file__).absolute().parents[2]

# What runs in a trial: of the sweep, what trains.
_CODE = (
    "common/*.py",
    "common/model/*.py",
    "ml/artifact/*.py",
    "ml/benchmark/latency.py",
    "ml/data/*.py",
    "ml/runs/*.py",
    "ml/stages.py",
    "ml/sweep/trials.py",
    "ml/training/*.py",
)


# How a data module makes batches, which does not change what its files hold.
_BATCHES = {field.name for field in fields(DataConfig)} - {"_target_", "folder"}


def trial_digest(cfg: DictConfig) -> str:
    """SHA-256 in hex of a trial: equal for trials that would compute the same."""
    parts = (
        config_digest(cfg),
        data_digest(cfg),
        code_digest(),
        own_code_digest(cfg),
        lock_digest(),
    )
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def data_digest(cfg: DictConfig) -> str:
    """The digest of a configuration's dataset, as its data module says it."""
    plain = OmegaConf.to_container(cfg.data, resolve=True)
    assert isinstance(plain, dict)
    which = {key: value for key, value in plain.items() if key not in _BATCHES}
    key = json.dumps(which, sort_keys=True)
    if key not in _known:  # it reads the dataset whole
        _known[key] = str(instantiate(cfg.data).digest)
    return _known[key]


_known: dict[str, str] = {}


@cache
def code_digest(root: Path = ROOT) -> str:
    """SHA-256 in hex of the sources that training may run."""
    files = sorted(path for pattern in _CODE for path in root.glob(pattern))
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def own_code_digest(cfg: DictConfig) -> str:
    """SHA-256 in hex of the modules that a configuration names beside ours: a user's dataset,
    network, callbacks."""
    modules = {target.rpartition(".")[0] for target in _targets(OmegaConf.to_container(cfg))}
    digest = hashlib.sha256()
    for name in sorted(module for module in modules if not module.startswith("ml.")):
        found = _find(name)
        if found and found.origin and found.has_location:
            content = Path(found.origin).read_bytes()
            digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _find(module: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):  # the trial will say so itself
        return None


def _targets(value: Any) -> Iterator[str]:
    for entry in value.values() if isinstance(value, dict) else value:
        if isinstance(entry, dict | list):
            yield from _targets(entry)
    if isinstance(value, dict) and "_target_" in value:
        yield str(value["_target_"])
