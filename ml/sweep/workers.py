"""The processes of the workers: started, replaced when they die, ended."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ml.child_process import python_environment
from ml.sweep.leases import new_worker_name
from ml.sweep.plan import Plan

_TAIL_LINES = 15


@dataclass
class _Process:
    name: str
    log: Path
    popen: subprocess.Popen[str]


class Workers:
    """The workers of this machine.

    They hang on our standard input pipe: however this process ends, they end too.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._processes: list[_Process] = []
        self._count = 0
        self.names: list[str] = []

    def start(self) -> None:
        """Starts the plan's number of workers."""
        for _ in range(self._plan.workers):
            self._start_one()

    def running(self) -> int:
        """How many are at work."""
        return sum(process.popen.poll() is None for process in self._processes)

    def take_dead(self) -> list[tuple[str, int, str]]:
        """Name, exit code and end of the log of those that died since the last call."""
        dead = [p for p in self._processes if p.popen.poll() not in (None, 0)]
        self._processes = [p for p in self._processes if p not in dead]
        return [(p.name, p.popen.returncode, _tail(p.log)) for p in dead]

    def replace_one(self) -> None:
        """Starts another one in place of one that died."""
        self._start_one()

    def end(self) -> None:
        """Ends them at once. What they leave is what a crash would leave: a trial to continue."""
        for process in self._processes:
            process.popen.kill()
        for process in self._processes:
            process.popen.wait()

    def _start_one(self) -> None:
        self._count += 1
        name = new_worker_name(self._count)
        log = Path(self._plan.folder) / "workers" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as output:
            popen = subprocess.Popen(
                [sys.executable, "-m", "ml.sweep.worker", name],
                env=python_environment() | _threads(self._plan),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,  # the terminal's Ctrl-C is not for them
            )
        pipe: IO[str] | None = popen.stdin
        assert pipe is not None
        try:
            pipe.write(self._plan.to_json() + "\n")
            pipe.flush()
        except BrokenPipeError:
            pass  # it died already; its log says why
        self.names.append(name)
        self._processes.append(_Process(name, log, popen))


def _threads(plan: Plan) -> dict[str, str]:
    """Each worker its share of the cores: more threads than cores wait for each other."""
    cores = len(os.sched_getaffinity(0))
    share = plan.threads or max(1, cores // plan.workers)
    return {name: str(share) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_TAIL_LINES:])
