"""A clone of this project in miniature, with git, DVC and a dataset of its own; its pipeline runs
stand-ins for the programs of the stages, or the real ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml.data.cifar10_files import pin_folder
from ml.pipeline.layout import STAGES
from tests.helpers.program import Program, in_shell

ROOT = Path(__file__).absolute().parents[3]
_FILES = ("dvc.yaml", "params.yaml", ".dvc/config", ".dvc/.gitignore", "ml/pipeline/stage")

# What a stand-in makes of its input: other bytes for other input, quickly.
_STAND_IN = """\
#!/bin/sh
set -eu
echo {stage} >> {log}
mkdir -p pipeline/run pipeline/metrics
{commands}
"""
_STAND_INS = {
    "train": """\
while [ -e {hold} ]; do sleep 0.05; done
cp pipeline/prepared/config.yaml pipeline/run/config.yaml
sum=$(cat pipeline/prepared/config.yaml pipeline/prepared/code/train.txt | cksum | cut -d' ' -f1)
for name in metrics.jsonl network.pt provenance.json system.jsonl training.json; do
  echo $sum > pipeline/run/$name
done
{
  echo epoch,train/loss,val/loss,train/accuracy,val/accuracy
  echo 1,2,2,0.$sum,0.1
  echo 2,1,1,0.5,0.2
} > pipeline/run/metrics.csv
echo "{\\"val_accuracy\\": 0.$sum}" > pipeline/metrics/train.json
""",
    "evaluate": """\
mkdir -p pipeline/run/evaluation
sum=$(cat pipeline/run/network.pt pipeline/prepared/code/evaluate.txt | cksum | cut -d' ' -f1)
cd pipeline/run/evaluation
printf 'actual,predicted,images,share\\ncat,cat,1,0.%s\\ncat,dog,0,0\\n' $sum > confusion.csv
printf 'confidence,accuracy,images\\n0.5,0.%s,1\\n' $sum > reliability.csv
printf 'class,f1,precision,recall,images\\ncat,0.%s,1,1,1\\n' $sum > classes.csv
echo "{\\"accuracy\\": 0.$sum}" > ../../metrics/test.json
""",
    "export": """\
mkdir -p pipeline/run/plots pipeline/run/mistakes
cat pipeline/run/network.pt pipeline/prepared/code/export.txt > pipeline/run/model.onnx
for name in report.html summary.json plots/worst_mistakes.png mistakes/1.png; do
  echo {} > pipeline/run/$name
done
echo '{"megabytes": 1}' > pipeline/metrics/export.json
""",
    "benchmark": """\
mkdir -p pipeline/run/benchmark
sum=$(cat pipeline/run/model.onnx params.yaml | cksum | cut -d' ' -f1)
printf 'model,p50_ms,images_per_s\\nONNX,0.%s,1\\n' $sum > pipeline/run/benchmark/summary.csv
echo "{\\"onnx\\": 0.$sum}" > pipeline/metrics/benchmark.json
""",
}


@dataclass
class Project:
    """The clone at ``path``; ``home`` is the user's home folder, empty at first."""

    path: Path
    home: Path
    programs: Path
    environment: dict[str, str] = field(default_factory=dict)

    def dvc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`bazel run //ml:dvc -- arguments`, to its end."""
        return self.start(*arguments).finish(600)

    def start(self, *arguments: str) -> Program:
        """The same, still at work."""
        return Program("ml.pipeline.runner", *arguments, cwd=self.home, env=self.variables())

    def ran(self) -> list[str]:
        """The stages whose programs ran since the last call, in order."""
        log = self.programs / "log"
        names = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return names

    def hold(self) -> Path:
        """While this file is there, the stand-in for `train` does not end."""
        path = self.programs / "hold"
        path.touch()
        return path

    def commit(self) -> None:
        """All that git shows as changed."""
        _git(self.path, "add", "--all")
        _git(self.path, "commit", "--quiet", "--message", "test")

    def metric(self, name: str) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(
            (self.path / "pipeline" / "metrics" / f"{name}.json").read_text()
        )
        return values

    def variables(self) -> dict[str, str]:
        """The environment of the command: the user's, without secrets and settings."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "KILN_"))}
        return {
            **inherited,
            "BUILD_WORKSPACE_DIRECTORY": str(self.path),
            "HOME": str(self.home),
            "KILN_CACHE": str(self.home.parent / "cache"),
            "KILN_STAGES": str(self.programs),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PYTHONSAFEPATH": "1",  # the clone has a folder ml, too
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            **self.environment,
        }


def make_project(folder: Path, dataset: Path, *, real: Sequence[str] = ("prepare",)) -> Project:
    """A committed clone that has run nothing yet.

    Args:
        dataset: a folder with train.bin and test.bin; the clone pins and holds them.
        real: stages that run the true programs.
    """
    path, programs = folder / "clone", folder / "programs"
    project = Project(path, folder / "home", programs)
    for made in (path, programs, project.home):
        made.mkdir(parents=True)
    for name in _FILES:
        _copy(ROOT / name, path / name)
    for name in ("configs", ".dvc/plots"):
        shutil.copytree(ROOT / name, path / name, ignore=shutil.ignore_patterns("BUILD.bazel"))
    for name in (
        "ml/training/networks.py",
        "ml/artifact/evaluation.py",
        "ml/sweep.py",
        "common/model/artifact.py",
        "common/figures.py",
        "common/terminal.py",
    ):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("1\n")
    (path / "requirements_lock.txt").write_text("torch==1\n")
    (path / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    _place(dataset, path / "ml" / "data")
    for stage in STAGES:
        _write_program(project, stage, real=stage in real)
    _git(path, "init", "--quiet")
    _git(path, "config", "user.name", "test")
    _git(path, "config", "user.email", "test@example.com")
    project.commit()
    return project


def _place(dataset: Path, folder: Path) -> None:
    outs = ""
    folder.mkdir(parents=True)
    for file in pin_folder(dataset).files:
        shutil.copyfile(dataset / file.name, folder / file.name)
        outs += f"- md5: {file.md5}\n  size: {file.size}\n  hash: md5\n  path: {file.name}\n"
    (folder / "cifar10.dvc").write_text(f"outs:\n{outs}")
    (folder / ".gitignore").write_text("/train.bin\n/test.bin\n")


def _write_program(project: Project, stage: str, *, real: bool) -> None:
    """The program, and the list of sources that it is made of."""
    log, hold = project.programs / "log", project.programs / "hold"
    commands = f'exec {in_shell(f"ml.pipeline.{stage}")} "$@"' if real else _STAND_INS[stage]
    text = _STAND_IN.replace("{commands}", commands).replace("{stage}", stage)
    text = text.replace("{log}", f"'{log}'").replace("{hold}", f"'{hold}'")
    program = project.programs / stage
    program.write_text(text)
    program.chmod(0o755)
    own = {"train": "ml/training/networks.py", "evaluate": "ml/artifact/evaluation.py"}.get(stage)
    names = [name for name in (own, "requirements_lock.txt") if name]
    (project.programs / f"{stage}.sources").write_text("\n".join(names) + "\n")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(source.stat().st_mode | 0o200)


def _git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)
