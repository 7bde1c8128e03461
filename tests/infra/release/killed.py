"""The deploy command as processes that die: `kill -9` before the n-th call of an AWS API.

A call that was sent is done by AWS, whether or not its answer is read; so being killed before each
call is being killed after each one, too. Every call counts: of Lambda, S3 (each write of the ledger
and of the lease), ECR, CloudWatch, Logs, SNS and STS, in whichever thread.

Run as a program it loads everything once, then forks for each line of JSON on standard input and
answers with the exit code: starting Python anew for each would take most of the time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:  # which this program does not load
    from tests.infra.release.world import World

RENEWAL = "s3.PutObject/lease.json"
# Two looks prove it, and three images condemn it: short ways through all steps.
SHORT = """
strategy = "canary"
most_hold_s = 60
watch_s = 0
poll_s = 0.05
settle_s = 0
lease_s = 30

[canary]
weights = [0.2, 0.5]
bake_s = 0
look_s = 0.05

[golden]
per_look = 3
concurrency = 1

[verdict]
false_alarm_rate = 0.5
missed_harm_rate = 0.5
harmful_accuracy_loss = 0.9
required = ["accuracy"]
"""
GOOD, OTHER = "a" * 64, "b" * 64


class Deploys:
    """Runs the command in a process of its own."""

    def __init__(self, source: IO[str], sink: IO[str]) -> None:
        self._source, self._sink = source, sink

    def run(
        self,
        name: str,
        arguments: Sequence[str],
        kill_at: int = 0,
        by: signal.Signals = signal.SIGKILL,
        behind: str = "",
    ) -> tuple[int, list[str]]:
        """Exit code (-9 if killed) of a deploy, and the calls that it made: "lambda.GetAlias".

        `behind` names a call; the next one of the thread that made it is not made.
        """
        job = {"name": name, "arguments": list(arguments), "kill_at": kill_at, "by": by}
        job["behind"] = behind
        self._sink.write(json.dumps(job) + "\n")
        self._sink.flush()
        code, *calls = self._source.readline().split()
        return int(code), calls


@contextmanager
def deploys(environment: Mapping[str, str]) -> Iterator[Deploys]:
    """A process that runs the command as often as it is asked."""
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        **environment,
        "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),
    }
    command = [sys.executable, os.path.abspath(__file__)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        yield Deploys(process.stdout, process.stdin)
        process.stdin.close()


@dataclass
class Killing:
    """One cloud, and functions in it that differ by name alone."""

    world: World
    deploys: Deploys
    numbers: Iterator[int]

    def fresh(self) -> World:
        """A function of its own, at version 1."""
        world = replace(self.world, name=f"kiln-{next(self.numbers)}")
        world.config.write_text(SHORT)
        world.create(world.push(GOOD))
        return world

    def deploy(
        self,
        world: World,
        image: str,
        kill_at: int = 0,
        by: signal.Signals = signal.SIGKILL,
        behind: str = "",
    ) -> tuple[int, list[str]]:
        arguments = ("--env", "dev", "--config", str(world.config), "--yes", "--image", image)
        golden = ("--golden", str(world.golden))
        return self.deploys.run(world.name, [*arguments, *golden], kill_at, by, behind)


def changes(call: str) -> bool:
    """Whether a call leaves something behind in AWS; a lease that is renewed is as it was."""
    reading = ("Get", "List", "Describe", "Head", "Filter", "Invoke")
    return call != RENEWAL and not call.partition(".")[2].startswith(reading)


def _serve() -> None:
    from infra.release.aws.clients import Aws
    from infra.release.commands import command, deploy  # what takes the time
    from tests.infra.release.bare import BareInfrastructure

    # Every fork has these clients, none of which has a connection yet: making them takes a second.
    aws = Aws(os.environ["AWS_REGION"])
    clients = [
        aws.functions,
        aws.calls,
        aws.s3,
        aws.ecr,
        aws.logs,
        aws.cloudwatch,
        aws.sns,
        aws.sts,
    ]
    vars(command)["Aws"] = lambda *_: aws
    infrastructure = BareInfrastructure("")
    clients.append(infrastructure.functions)

    for line in sys.stdin:
        job = json.loads(line)
        infrastructure.name = job["name"]
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _become(job, writing, clients, partial(deploy.main, open_=lambda *_: infrastructure))
        os.close(writing)
        with os.fdopen(reading) as pipe:
            calls = pipe.read()
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), calls, flush=True)


def _become(job: Mapping[str, Any], calls: int, clients: Sequence[Any], deploy: Any) -> None:
    from rich.console import Console

    from infra.release.commands.command import interrupt_by_sigterm

    lock = threading.Lock()
    made, behind = 0, 0  # a thread: the lease's renewal may come while the named call is on its way

    def count(event_name: str, request: Any, **_: object) -> None:
        nonlocal made, behind
        with lock:
            made += 1
            if behind == threading.get_ident() or made == job["kill_at"]:
                os.kill(os.getpid(), job["by"])
            call = event_name.removeprefix("before-send.")
            if call == "s3.PutObject":
                call += f"/{request.url.rpartition('/')[2]}"
            if call == job["behind"]:
                behind = threading.get_ident()
            os.write(calls, f"{call} ".encode())

    for client in clients:
        client.meta.events.register_first("before-send", count)
    interrupt_by_sigterm()
    with open(os.devnull, "w") as nowhere:
        code = deploy(job["arguments"], Console(file=nowhere), Console(file=sys.stderr))
    os._exit(code)


if __name__ == "__main__":
    _serve()
