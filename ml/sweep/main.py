"""Hyperparameter search with Optuna, resumable and on many machines: ``bazel run //ml:sweep``."""

import os
import signal
import sys
from collections.abc import Sequence

import optuna
from omegaconf import OmegaConf
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from common.files import user_path
from common.terminal import Progress, terminal
from ml.sweep.plan import Plan, make_plan
from ml.sweep.search import Search, SweepFailed
from ml.sweep.settings import SweepError, configuration
from ml.training.config import CONFIGS

BAD_INPUT = 2  # exit code: nothing was trained
INTERRUPTED = 130  # exit code after Ctrl-C, as in shells
FAILED = 1
_HOST, _PORT = "127.0.0.1", 8080  # loopback, since the dashboard has no authentication

_HELP = """\
Hyperparameter search for //ml:train, on one machine or many.

  bazel run //ml:sweep                                 {default}
  bazel run //ml:sweep sweep=smoke                     fifty tiny trials: the whole path
  bazel run //ml:sweep sweep=latency                   accuracy against latency: a Pareto front
  bazel run //ml:sweep sweep=base experiment=smoke 'optimizer.filter_lr=interval(0.03,0.5)'
  bazel run //ml:sweep sweep=smoke sweep.workers=2     two processes share the cores
  bazel run //ml:sweep sweep=smoke sweep.storage=postgresql+psycopg://user:password@host/database
  bazel run //ml:sweep -- --cfg sweep=smoke            show what would be searched, and stop
  bazel run //ml:sweep -- --dashboard sweep=smoke      its trials in the browser, also while it runs

The same command again continues, also after a crash or kill -9: finished trials are kept, an
interrupted one continues from its last epoch, and no combination is trained twice.
Folder: multirun/<sweep.name>/ with report.html, trials.csv and a folder for every trial. The best
trial becomes configs/experiment/<sweep.experiment>.yaml, for bazel run //ml:train experiment=…

Values to search, for any key of //ml:train (or in a file of configs/sweep/, under space:)
  key=choice(a,b,c)  key=a,b,c        one of these; lists and groups too: optimizer=muon,sgd
  key=interval(0,1)                   between two numbers
  key=int(interval(1,9))              whole numbers, both ends included
  key=range(0,1,step=0.25)            0, 0.25, 0.5, 0.75
  key=tag(log,interval(1e-4,1))       on a logarithmic scale
A key with one value is the same in every trial: data.train_size=5000

Presets (sweep=…): {presets}
Options
  --help            this
  --cfg             print the checked plan and stop
  --config-dir DIR  look for configurations there too
  --dashboard       optuna-dashboard on the sweep's storage, for this machine alone
  --port N          of the dashboard (default: {port})

Settings (sweep.key=value)
{settings}"""


def main(arguments: Sequence[str], console: Console) -> int:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        flags, overrides, folders, port = _sort_flags(arguments)
        if "--help" in flags:
            console.print(_help(), highlight=False, markup=False, soft_wrap=True)
            return 0
        with configuration(folders):
            with Progress("trying the space", console=console):
                plan = make_plan(overrides, folders)
            if "--cfg" in flags:
                console.print(OmegaConf.to_yaml(_shown(plan)), highlight=False, markup=False)
                return 0
            if "--dashboard" in flags:
                return _show(plan, port, console)
            return _search(plan, console)
    except SweepError as exc:
        print(f"{exc}\nNothing was trained.", file=sys.stderr)
        return BAD_INPUT


def _show(plan: Plan, port: int, console: Console) -> int:
    """Serves optuna-dashboard until Ctrl-C.

    Raises:
        SweepError: the sweep does not exist, or the port is taken.
    """
    from optuna_dashboard import run_server

    from ml.sweep.study import journal, open_storage, shown

    if plan.storage is None and not journal(plan).is_file():
        raise SweepError(f"{journal(plan)} does not exist: nothing of this sweep was tried yet")
    console.print(f"http://{_HOST}:{port}/ shows {shown(plan)}; Ctrl-C stops it", highlight=False)
    try:
        run_server(open_storage(plan), host=_HOST, port=port)
    except KeyboardInterrupt:
        pass
    except (OSError, SQLAlchemyError) as exc:
        raise SweepError(f"--port {port}, {shown(plan)}: {str(exc).partition(chr(10))[0]}") from exc
    return 0


def _search(plan: Plan, console: Console) -> int:
    search = Search(plan, console)
    try:
        search.run()
    except KeyboardInterrupt:
        done = search.counts()
        search.conclude()
        print(
            f"\nInterrupted after {done.used} of {done.total} trials, none of which is lost. "
            f"Continue with the same command:\n  {plan.typed}",
            file=sys.stderr,
        )
        return INTERRUPTED
    except SweepFailed as exc:
        print(exc, file=sys.stderr)
        return FAILED
    search.conclude()
    return 0


def _sort_flags(arguments: Sequence[str]) -> tuple[set[str], list[str], list[str], int]:
    flags, overrides, folders, port = set(), [], [], _PORT
    rest = iter(arguments)
    for text in rest:
        if text in ("--help", "-h"):
            flags.add("--help")
        elif text in ("--cfg", "--dashboard"):
            flags.add(text)
        elif text == "--port":
            number = next(rest, "")
            if not number.isdecimal() or not 0 < int(number) < 65536:
                raise SweepError(f"--port {number}: expected a number from 1 to 65535")
            port = int(number)
        elif text == "--config-dir":
            folder = user_path(next(rest, ""))
            if not folder.is_dir():
                raise SweepError(f"--config-dir {folder}: there is no such folder")
            folders.append(os.path.abspath(folder))
        elif text.startswith("--"):
            raise SweepError(
                f"{text}: unknown option; there are --help, --cfg, --config-dir DIR, --dashboard, "
                "--port N"
            )
        else:
            overrides.append(text)
    return flags, overrides, folders, port


def _shown(plan: Plan) -> dict[str, object]:
    from ml.sweep.study import shown

    values = {key: getattr(plan, key) for key in Plan.__dataclass_fields__}
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
    return plain | {
        "objectives": [f"{direction} {name}" for name, direction in plan.objectives],
        "storage": shown(plan),
    }


def _help() -> str:
    folder = CONFIGS / "sweep"
    settings = (folder / "base.yaml").read_text(encoding="utf-8").split("\n\n", 1)[1]
    first = (folder / "default.yaml").read_text(encoding="utf-8").splitlines()[0]
    return _HELP.format(
        port=_PORT,
        default=first.split("— ")[-1].rstrip("."),
        presets=", ".join(sorted(path.stem for path in folder.glob("*.yaml"))),
        settings="".join(f"  {line}\n" for line in settings.splitlines()).rstrip(),
    )


if __name__ == "__main__":
    # Shells ignore SIGINT in background jobs.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(sys.argv[1:], terminal(140)))
