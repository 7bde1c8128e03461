"""Paths, parameters, tables and process handling shared by the stages of dvc.yaml."""

import csv
import io
import os
import signal
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_LOOK_S = 0.5


def die_with_parent() -> None:
    """Kills this process when its parent dies.

    Safe, because stages can be killed at any moment; works on all platforms.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


PARAMS = Path("params.yaml")
PIN = Path("ml/data/cifar10.dvc")
DATA = Path("ml/data")
PREPARED = Path("pipeline/prepared")
DATASET = PREPARED / "data"
CONFIG = PREPARED / "config.yaml"
CODE = PREPARED / "code"
RUN = Path("pipeline/run")
METRICS = Path("pipeline/metrics")
STAGES = ("prepare", "train", "evaluate", "export", "benchmark")
PROGRAMS = "KILN_STAGES"  # variable: the folder of the stages' programs and lists of sources


def enter_stage() -> None:
    """Sets this process up as a stage: working directory at the workspace root, dataset from
    `prepare`, and ending with the DVC process that started it.
    """
    die_with_parent()
    os.chdir(os.environ.get("DVC_ROOT") or os.environ.get("BUILD_WORKSPACE_DIRECTORY") or ".")
    os.environ.pop("BUILD_WORKING_DIRECTORY", None)
    os.environ["KILN_CIFAR10"] = str(DATASET.absolute())


def is_stage() -> bool:
    """True in a process that DVC started."""
    return "DVC_STAGE" in os.environ


def programs_folder() -> Path:
    """The folder of the stages' programs: beside this file under Bazel."""
    return Path(os.environ.get(PROGRAMS) or Path(__file__).absolute().parent)


class ChoicesError(ValueError):
    """params.yaml is invalid; the message names the place and what was expected."""


def read_choices(path: Path, section: str) -> dict[str, Any]:
    """A section of params.yaml.

    Raises:
        ChoicesError: the file or the section cannot be read.
    """
    chosen = read_params(path).get(section)
    if not isinstance(chosen, dict):
        raise ChoicesError(f"{path} needs a section '{section}:' of names and values")
    return chosen


def read_params(path: Path) -> dict[Any, Any]:
    """The content of params.yaml; empty if it is no mapping.

    Raises:
        ChoicesError: it cannot be read.
    """
    from omegaconf import OmegaConf  # slow to import, for a runner that does without
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except OSError as exc:
        raise ChoicesError(f"{path} cannot be read ({exc.strerror}): restore it") from exc
    except (YAMLError, OmegaConfBaseException) as exc:
        raise ChoicesError(f"{path} is not YAML: {' '.join(str(exc).split())}") from exc
    return values if isinstance(values, dict) else {}


def csv_text(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The table as CSV text with six significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row])
    return text.getvalue()
