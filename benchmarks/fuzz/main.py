"""Fuzzes the real server with what its OpenAPI document allows and forbids, and with damaged
images.

    bazel run //serve:fuzz                          # 20,000 requests
    bazel run //serve:fuzz -- --cases 2000 --seed 7
    bazel run //serve:fuzz -- --json fuzz.json

Every answer must be documented: its status, type, headers and body. No answer may be a server
error, what the document forbids must be refused, and a whole image must be answered. Schemathesis
makes and checks the requests. Equal seeds send equal requests; what fails is made small and printed
as a command of curl. Exit code 1: something failed, or the server complained in its log.
"""

import argparse
import json
import sys
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.fuzz.fuzzing import Findings, fuzz
from benchmarks.load.main import free_port
from benchmarks.load.servers import (
    Candidate,
    Running,
    ServerFailed,
    interruptible,
    python_environment,
    running,
)
from common.files import user_path, write_whole
from common.model.artifact import ArtifactError
from serve.inference.model_path import model_path, read_model
from serve.settings import Settings


def main() -> int:
    """Runs, prints, writes; 0: all is documented, 1: something is not, 2: it could not start."""
    options = _options()
    try:
        path = user_path(options.model) if options.model else model_path(Settings())
        read_model(path)
        with _server(path) as server:
            findings = _watched(server, options.cases, options.seed)
            findings.complaints = server.said().splitlines()
    except (ArtifactError, ServerFailed) as exc:
        sys.stderr.write(f"kiln: error: {exc}\n")
        return 2
    _show(findings)
    if options.json:
        document = {"seed": options.seed, "holds": findings.hold, **asdict(findings)}
        target = user_path(options.json)
        write_whole(target, json.dumps(document, indent=2).encode() + b"\n")
        sys.stderr.write(f"kiln: wrote {target}\n")
    return 0 if findings.hold else 1


def _server(path: Path) -> AbstractContextManager[Running]:
    port = free_port()
    variables = python_environment(
        KILN_MODEL=str(path.absolute()),
        KILN_PORT=str(port),
        KILN_WORKERS="1",
        KILN_LOG_LEVEL="warning",
        KILN_DRIFT_RATE="0",  # noise is no such traffic as the reference knows
    )
    command = [sys.executable, "-m", "serve.server.server"]
    return running(Candidate("the service", command, variables), port, "/ready", None)


def _watched(server: Running, cases: int, seed: int) -> Findings:
    columns = (TextColumn("fuzzing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=cases)

        def say(findings: Findings) -> None:
            bar.update(task, completed=findings.cases)

        return fuzz(f"http://127.0.0.1:{server.port}", cases, seed, say)


def _show(findings: Findings) -> None:
    console = Console(width=None if Console().is_terminal else 100)
    table = Table(title=f"{findings.cases:,} requests")
    table.add_column("kind")
    table.add_column("sent", justify="right")
    for name, count in findings.by_family.items():
        table.add_row(name, f"{count:,}")
    console.print(table)
    statuses = ", ".join(f"{status}: {n:,}" for status, n in sorted(findings.by_status.items()))
    console.print(f"answers by status: {statuses}")
    wrong = [*findings.failures, *findings.complaints]
    for one in wrong:
        console.print(one, markup=False, highlight=False)
    console.print(f"{len(wrong)} failures")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bazel run //serve:fuzz --",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, help="default: the built-in one")
    parser.add_argument("--cases", type=_at_least_1, default=20_000, help="how many (20,000)")
    parser.add_argument("--seed", type=int, default=0, help="of the requests (0)")
    parser.add_argument("--json", type=Path, help="where to write the findings")
    return parser.parse_args()


def _at_least_1(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return int(text)


if __name__ == "__main__":
    sys.exit(interruptible(main))
