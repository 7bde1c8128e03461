"""Trains, evaluates once on the test set, exports, and writes a run folder: ``bazel run
//ml:train``.
"""

import json
import math
import os
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig
from rich.console import Console

from common.files import write_whole
from common.terminal import Progress
from ml.data.checks import unwrapped
from ml.data.cifar10 import DatasetError
from ml.data.cifar10_files import cache_folder
from ml.runs.folder import ResumeError, RunFolder
from ml.training.config import (
    CONFIGS,
    ConfigError,
    check_values,
    composed,
)
from ml.training.launch import (
    BAD_INPUT,
    Job,
    begun_run,
    explained,
    hydra_arguments,
    interrupted,
    is_first,
    run_application,
)

if TYPE_CHECKING:
    from ml.training.presets import Presets


def _train(cfg: DictConfig, run: RunFolder, console: Console) -> dict[str, Any]:
    with Progress("loading PyTorch"):  # 9 s of CPU time, which --help does not need
        from ml import stages
        from ml.training import fitting  # noqa: F401

    return stages.train(cfg, run, console)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def main(cfg: DictConfig) -> float:
    """Hydra's entry point; returns the monitored metric for sweeps."""
    Job.has_begun = True
    console = Console(soft_wrap=True)
    try:
        check_values(cfg)
        if cfg.init_from:  # aliases may move, and relative paths depend on the current folder
            cfg.init_from = str(initial_weights(cfg.init_from, Path(cfg.paths.runs)))
        overrides = HydraConfig.get().overrides.task
        begun = begun_run(cfg, overrides, console, lambda: _configurations(cfg))
        with begun as (run, chosen), explained(run):
            summary = _train(chosen, run, console)
    except (ConfigError, ResumeError, DatasetError, InstantiationException, OSError) as exc:
        _refuse(exc)
    except KeyboardInterrupt:  # before the run began
        interrupted()
    if found := summary.get("rate_test"):
        lr = found["suggestion"]
        said = (
            "No learning rate is suggested" if lr is None else f"Suggested: optimizer.lr={lr:.2g}"
        )
        console.print(f"\n[bold green]{said}[/]\n  plot  {summary['plot']}", highlight=False)
        return math.nan
    if is_first():
        _print_summary(console, run, summary)
    metric: float = summary[chosen.monitor]
    return metric


def _print_summary(console: Console, run: RunFolder, summary: dict[str, Any]) -> None:
    """Prints a run's metrics and the location of its files."""
    metric = summary["monitor"]
    if summary.get("fast_dev_run"):
        console.print(
            f"\n[bold green]One batch trained and one validated[/]: {metric} "
            f"{summary[metric]:.4f}, which means nothing. Nothing was kept.",
            highlight=False,
        )
    elif "test" not in summary:
        console.print(
            f"\n[bold green]Best {metric} {summary[metric]:.4f}[/] at epoch "
            f"{summary['best_epoch']}; not tested, not exported (conclude=false)\n"
            f"  summary  {run.summary}\n  metrics  {run.metrics}",
            highlight=False,
        )
    else:
        console.print("\n".join(_results(run, summary)), highlight=False)


def _results(run: RunFolder, summary: dict[str, Any]) -> tuple[str, ...]:
    test, version = summary["test"], summary["model_version"][:12]
    return (
        f"\n[bold green]Test accuracy {test['accuracy']:.2%}[/], macro F1 {test['macro_f1']:.4f}, "
        f"loss {test['loss']:.4f}, calibration error {test['calibration_error']:.4f} "
        f"({test['images']:,} images, seen once)",
        f"Validation best at epoch {summary['best_epoch']}; "
        f"training took {summary['training_s']:.0f} s, export {summary['export_s']:.0f} s; "
        f"ONNX and PyTorch agree within {summary['parity']:.1e}",
        f"  model    {run.model}  ({summary['model_bytes'] / 1e6:.2f} MB, version {version})",
        f"  summary  {run.summary}",
        f"  metrics  {run.metrics}",
        f"  plots    {run.plots}",
        f"  report   {run.report}",
    )


def _configurations(cfg: DictConfig) -> "Presets":
    """The presets for a budget, unless the command line names one or sets values that they
    define.
    """
    with Progress("loading PyTorch"):
        from ml.training.presets import Presets

    hydra_cfg = HydraConfig.get()
    overrides, choices = hydra_cfg.overrides.task, hydra_cfg.runtime.choices
    named = any(choices.get(group) for group in ("preset", "experiment", "debug"))
    known = (choices["data"], choices["network"]) == ("cifar10", "resnet")
    if cfg.budget is None or named or not known or cfg.init_from:
        return Presets(cfg)
    search = [text for text in hydra_cfg.overrides.hydra if text.startswith("hydra.searchpath")]
    return Presets(cfg, overrides, lambda name: composed([*overrides, *search, f"preset={name}"]))


def _refuse(exc: Exception) -> NoReturn:
    cause = unwrapped(exc)
    print(f"{type(cause).__name__}: {cause}\nNothing was trained.", file=sys.stderr)
    sys.exit(BAD_INPUT)


def run_entry() -> None:
    """Runs `main` with distinct exit codes: 2 bad input, 4 diverged, 5 files cannot be written, 130
    interrupted, 1 a crash.
    """
    if prints_completion(sys.argv[1:]):
        return
    try:
        sys.argv[1:] = hydra_arguments(sys.argv[1:])
    except ResumeError as exc:
        _refuse(exc)
    run_application(main, _refuse)


# --- Weights to start from -----------------------------------------------------------------------

_REGISTERED = "registry:"


def initial_weights(reference: str, runs: Path) -> Path:
    """Resolves ``init_from`` to a file of weights.

    Args:
        reference: a file, a run folder, or ``registry:`` with an alias, a version or its
            prefix: from the run that made it if that is here, else from the registry.
        runs: parent of the run folders.

    Raises:
        ConfigError: there is none; the message says what was searched for.
    """
    if reference.startswith(_REGISTERED):
        path = _registered(reference.removeprefix(_REGISTERED), runs)
    else:
        path = runs.parent / Path(reference).expanduser()  # as a user of the workspace sees it
    run = RunFolder(path)
    for candidate in (path, run.weights, run.checkpoints / "best.ckpt", run.last_checkpoint):
        if candidate.is_file():
            return candidate.absolute()
    raise ConfigError(
        f"init_from={reference}: {path} is no file, and no run folder with a network.pt or a "
        "checkpoint"
    )


def _registered(name: str, runs: Path) -> Path:
    """The run of this machine that made a registered version, or a file of its weights."""
    from common.objects import StoreError
    from ml.registry.ledger import RegistryError
    from ml.registry.registry import Registry, usual_location

    try:
        registry = Registry.open(usual_location())
        manifest = registry.versions.manifest(registry.resolve(name))
        # Of INT8, the model that it was made from.
        made = (manifest.version, *(parent.version for parent in manifest.lineage.parents))
        for summary in runs.glob("*/summary.json"):
            if json.loads(summary.read_text(encoding="utf-8")).get("model_version") in made:
                return summary.parent
        for version in made:
            if weights := registry.weights.of(version):
                path = cache_folder("weights") / f"{sha256(weights).hexdigest()}.pt"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, weights)
                return path
    except (RegistryError, StoreError) as exc:
        raise ConfigError(f"init_from={_REGISTERED}{name}: {exc}") from None
    raise ConfigError(
        f"init_from={_REGISTERED}{name} is {manifest.name}, version {manifest.version[:12]}: it "
        "was registered without the weights of its training, and the run that made it is not in "
        f"{runs}; copy its folder there, or name a file of its weights"
    )


# --- Completion ----------------------------------------------------------------------------------

_BASH = r"""# Completes: bazel run //ml:train [--] <TAB>
_kiln_train() {
    local line="${COMP_LINE:0:COMP_POINT}" head="" current choice
    local asked='(^|/)bazel(isk)? .*//ml:train +(-- +)?(.*)$'
    if [[ ! "$line" =~ $asked ]]; then
        # Anything else is left to the completion that was there before.
        if [[ -n "$_KILN_BEFORE" ]]; then "$_KILN_BEFORE" "$@"; fi
        return
    fi
    local arguments="${BASH_REMATCH[4]}"
    current="${arguments##*[[:space:]]}"
    # Bash replaces only what follows the last of its word breaks.
    if [[ "$COMP_WORDBREAKS" == *"="* && "$current" == *"="* ]]; then head="${current%=*}="; fi
    COMPREPLY=()
    for choice in $(COMP_LINE="train $arguments" @PROGRAM@ -sc query=bash 2>/dev/null); do
        if [[ "$choice" == "$current"* ]]; then COMPREPLY+=("${choice#"$head"}"); fi
    done
    compopt -o nospace 2>/dev/null
}
if [[ "$(complete -p bazel 2>/dev/null)" =~ -F[[:space:]]+([^[:space:]]+) ]]; then
    if [[ "${BASH_REMATCH[1]}" != _kiln_train ]]; then _KILN_BEFORE="${BASH_REMATCH[1]}"; fi
fi
complete -o default -F _kiln_train bazel bazelisk ./tools/bazel tools/bazel
"""


def prints_completion(arguments: Sequence[str]) -> bool:
    """Prints the script with which bash completes ``bazel run //ml:train``, if that was requested;
    Hydra's own completes only commands of one word.

    Hydra handles other shells, use without Bazel, and the completions themselves.
    """
    workspace = os.environ.get("BUILD_WORKSPACE_DIRECTORY")
    asked = len(arguments) == 2 and arguments[0] in ("-sc", "--shell-completion")
    if not (workspace and asked and arguments[1] == "install=bash"):
        return False
    program = os.path.join(workspace, "bazel-bin", "ml", "commands", "train")
    sys.stdout.write(_BASH.replace("@PROGRAM@", "'" + program.replace("'", "'\\''") + "'"))
    return True


if __name__ == "__main__":
    run_entry()
