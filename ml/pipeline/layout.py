"""Where the stages of dvc.yaml find their input and leave their output, below the workspace."""

import os
from pathlib import Path

from ml.pipeline.lifeline import die_with_parent

PARAMS = Path("params.yaml")
PIN = Path("ml/data/cifar10.dvc")
DATA = Path("ml/data")
PREPARED = Path("pipeline/prepared")
CONFIG = PREPARED / "config.yaml"
CODE = PREPARED / "code"
RUN = Path("pipeline/run")
METRICS = Path("pipeline/metrics")

STAGES = ("prepare", "train", "evaluate", "export", "benchmark")
PROGRAMS = "KILN_STAGES"  # variable: the folder of the stages' programs and lists of sources


def enter_stage() -> None:
    """Makes this process a stage: at the root of the workspace, reading the dataset that dvc.yaml
    names, and ending with the DVC that started it."""
    die_with_parent()
    os.chdir(os.environ.get("DVC_ROOT") or os.environ.get("BUILD_WORKSPACE_DIRECTORY") or ".")
    os.environ["KILN_CIFAR10"] = str(DATA.absolute())


def is_stage() -> bool:
    """True in a process that DVC started."""
    return "DVC_STAGE" in os.environ


def programs_folder() -> Path:
    """Where the programs of the stages are: beside this file, where Bazel puts them."""
    return Path(os.environ.get(PROGRAMS) or Path(__file__).absolute().parent)
