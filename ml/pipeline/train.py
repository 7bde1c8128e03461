"""The stage `train`: from the resolved configuration to calibrated weights, without the test set.

If killed, it resumes from its last epoch, unless a dependency changed meanwhile: the run folder
records the inputs of its checkpoints.
"""

import json
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from omegaconf import DictConfig
from rich.console import Console

from common.files import write_whole
from ml.data.checks import unwrapped
from ml.data.cifar10 import DatasetError
from ml.data.cifar10_files import file_md5
from ml.pipeline.layout import CODE, CONFIG, DATASET, METRICS, RUN, enter_stage
from ml.runs.folder import ResumeError, RunFolder, best_row
from ml.training.callbacks import metrics_log
from ml.training.config import ConfigError, DivergedError
from ml.training.fitting import finish, fit
from ml.training.launch import DIVERGED, interrupted

BAD_INPUT = 2


def train(run: RunFolder, console: Console) -> None:
    """Runs the stage in the current folder.

    Raises:
        ConfigError, DatasetError, InstantiationException, ResumeError: invalid input.
    """
    run.path.mkdir(parents=True, exist_ok=True)
    with run.lock():
        cfg = _begin(run)
        fitted = fit(cfg, run, console)
        training = finish(cfg, fitted, run.weights)
        write_whole(run.training, json.dumps(training, indent=2) + "\n")
        run.system.touch()  # short runs may end before the first machine sample, or have none
        best = best_row(metrics_log(fitted.trainer).rows, cfg)
        write_whole(METRICS / "train.json", json.dumps(_figures(best, training), indent=2) + "\n")
        shutil.rmtree(run.checkpoints)


def _begin(run: RunFolder) -> DictConfig:
    """Writes the configuration into the run folder; deletes checkpoints of other configurations."""
    text = CONFIG.read_text(encoding="utf-8")
    key = "\n".join([text, (CODE / "train.txt").read_text(), file_md5(DATASET / "train.bin")])
    kept = run.path / ".checkpoints_of"
    if not kept.is_file() or kept.read_text(encoding="utf-8") != key:
        shutil.rmtree(run.checkpoints, ignore_errors=True)
    if not run.last_checkpoint.is_file():  # leftovers would be compared with this run
        for path in (run.changes, run.provenance, run.system):
            path.unlink(missing_ok=True)
    write_whole(kept, key)
    write_whole(run.config, text)
    return run.load_config()


def _figures(best: Mapping[str, float], training: Mapping[str, Any]) -> dict[str, float]:
    scores = {name: value for name, value in best.items() if name.startswith(("train/", "val/"))}
    return {
        **{name.replace("/", "_"): round(value, 6) for name, value in scores.items()},
        "best_epoch": training["best_epoch"],
        "parameters": training["parameters"],
        "seconds": training["training_s"],
    }


def main() -> int:
    enter_stage()
    try:
        train(RunFolder(RUN.absolute()), Console(soft_wrap=True))
    except (ConfigError, DatasetError, InstantiationException, ResumeError) as exc:
        cause = unwrapped(exc)
        print(f"{type(cause).__name__}: {cause}\nNothing was trained.", file=sys.stderr)
        return BAD_INPUT
    except DivergedError as exc:
        print(f"Diverged: {exc}", file=sys.stderr)
        return DIVERGED
    except KeyboardInterrupt:
        interrupted("the same command")
    return 0


if __name__ == "__main__":
    sys.exit(main())
