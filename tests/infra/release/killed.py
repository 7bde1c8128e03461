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
from typing import IO, Any

RENEWAL = "s3.PutObject/lease.json"


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
    ) -> tuple[int, list[str]]:
        """Exit code (-9 if killed) of a deploy, and the calls that it made: "lambda.GetAlias"."""
        job = {"name": name, "arguments": list(arguments), "kill_at": kill_at, "by": by}
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


def changes(call: str) -> bool:
    """Whether a call leaves something behind in AWS; a lease that is renewed is as it was."""
    reading = ("Get", "List", "Describe", "Head", "Filter", "Invoke")
    return call != RENEWAL and not call.partition(".")[2].startswith(reading)


def _serve() -> None:
    from infra.release.commands import deploy  # what takes the time

    _remember_models()
    for line in sys.stdin:
        job = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _become(job, writing, deploy)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            calls = pipe.read()
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), calls, flush=True)


def _become(job: Mapping[str, Any], calls: int, deploy: Any) -> None:
    from rich.console import Console

    from infra.release.commands.command import interrupt_by_sigterm
    from tests.infra.release.bare import BareInfrastructure

    lock = threading.Lock()
    made = 0

    def count(event_name: str, request: Any, **_: object) -> None:
        nonlocal made
        with lock:
            made += 1
            if made == job["kill_at"]:
                os.kill(os.getpid(), job["by"])
            call = event_name.removeprefix("before-send.")
            if call == "s3.PutObject":
                call += f"/{request.url.rpartition('/')[2]}"
            os.write(calls, f"{call} ".encode())

    _count_calls_by(count)
    interrupt_by_sigterm()
    with open(os.devnull, "w") as nowhere:
        code = deploy.main(
            job["arguments"],
            Console(file=nowhere),
            Console(file=sys.stderr),
            lambda options, terminal: BareInfrastructure(job["name"]),
        )
    os._exit(code)


def _count_calls_by(count: Any) -> None:
    """Has botocore call it before each request is sent."""
    from boto3.session import Session

    client = Session.client

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        made = client(self, *arguments, **options)
        made.meta.events.register_first("before-send", count)
        return made

    Session.client = counted


def _remember_models() -> None:
    """Descriptions of services are read once for all forks, and not by each session."""
    from functools import cache

    from botocore.loaders import JSONFileLoader

    JSONFileLoader.load_file = cache(JSONFileLoader.load_file)


if __name__ == "__main__":
    _serve()
