"""Soak test: sends valid and invalid requests to the real server for minutes and checks every
response.

    bazel run //serve:soak                               # a million requests, or ten minutes
    bazel run //serve:soak -- --seconds 60 --callers 16
    bazel run //serve:soak -- --capture                  # a tenth of the answers is captured
    bazel run //serve:soak -- --output soak              # soak.json and soak.png

All image types in all ways of sending them, batches, and every kind of client error. Predictions
are compared with onnxruntime's on the same pixels. Exit code 1: a server error, a wrong response,
growing memory or files, or a line in the server's log.
"""

import argparse
import json
import os
import pickle  # written only here
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations, pairwise
from pathlib import Path
from statistics import median

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from benchmarks.load.servers import (
    Running,
    ServerFailed,
    at_least,
    family,
    interruptible,
    running,
    service,
)
from benchmarks.soak.cases import all_cases, stalled
from benchmarks.soak.traffic import Plan, TrafficCounts
from common.captures import Captures
from common.command_line import command_parser, count, share_or_none
from common.figures import COLORS, MUTED, STYLE, new_figure, to_png
from common.files import user_path, write_whole
from common.model.artifact import ArtifactError, ArtifactMetadata
from common.programs import python_environment
from common.stores import open_store
from common.terminal import Progress, terminal
from serve.http.keys import new_key
from serve.inference.model_path import model_path, read_model
from serve.settings import Settings

_PAGE = os.sysconf("SC_PAGE_SIZE")
_ENOUGH = 200  # samples: every pair of them is compared


@dataclass(frozen=True)
class Sample:
    """Resource usage of the server at one time."""

    seconds: float
    requests: int
    memory_mb: float  # of all processes, shared memory once
    resident_mb: dict[int, float] = field(default_factory=dict)  # by process
    open_files: dict[int, int] = field(default_factory=dict)


def look(server: Running, seconds: float = 0.0, requests: int = 0) -> Sample:
    """Resident memory and open files of the server's processes."""
    resident, files = dict[int, float](), dict[int, int]()
    for pid in family(server.process):
        with suppress(OSError):  # it exited meanwhile
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            files[pid] = len(os.listdir(f"/proc/{pid}/fd"))
            resident[pid] = pages * _PAGE / 1e6
    return Sample(seconds, requests, server.memory_mb(), resident, files)


def growth(requests: Sequence[int], values: Sequence[float]) -> float:
    """Growth from first to last value, by the median of all slopes.

    Insensitive to steps and outliers, but not to leaks. Source: Theil 1950, Sen 1968.

    Raises:
        ValueError: there are fewer than two distinct abscissae.
    """
    step = max(1, len(values) // _ENOUGH)
    points = list(zip(requests[::step], values[::step], strict=True))
    slopes = [(v - u) / (y - x) for (x, u), (y, v) in combinations(points, 2) if y != x]
    if not slopes:
        raise ValueError("expected values at two different numbers of requests")
    return float(median(slopes)) * (requests[-1] - requests[0])


WARM_AFTER = 10_000  # requests of the warm-up, in which buffers and thread stacks are allocated
MEMORY_MB = 200.0  # of one process
_GROWTH_MB = 4.0  # of all processes; one leaked response per request is 0.4 GB in a million
_FEW = 8  # fewer samples give no slope
MISTAKES = ("server error", "wrong status", "wrong answer", "no answer")


@dataclass(frozen=True)
class Check:
    name: str
    found: str
    expected: str
    holds: bool


def checks_table(checks: Sequence[Check]) -> Table:
    table = Table(title="Criteria")
    for name in ("check", "found", "expected", ""):
        table.add_column(name)
    for check in checks:
        table.add_row(check.name, check.found, check.expected, "holds" if check.holds else "FAILS")
    return table


def judge(
    tally: TrafficCounts, samples: Sequence[Sample], before: Sample, after: Sample, errors: int
) -> list[Check]:
    """All checks; those of growth only if the run was long enough.

    Args:
        before: the warm server before the first client.
        after: after the last client.
        errors: lines in the server's log.
    """
    checks = [
        Check(name, str(count), "0", count == 0)
        for name in MISTAKES
        for count in [tally.mistakes.get(name, 0)]
    ]
    checks.append(Check("lines in the log", str(errors), "0", errors == 0))
    left = sum(after.open_files.values()) - sum(before.open_files.values())
    checks.append(Check("files left open", str(left), "0", left <= 0))
    most = max(max(sample.resident_mb.values()) for sample in (*samples, after))
    expected = f"at most {MEMORY_MB:.0f} MB"
    checks.append(Check("memory of a process", f"{most:.0f} MB", expected, most <= MEMORY_MB))
    replaced = set(before.resident_mb) - set(after.resident_mb)
    checks.append(Check("processes that died", str(len(replaced)), "0", not replaced))
    warm = [sample for sample in samples if sample.requests >= WARM_AFTER]
    if len(warm) >= _FEW:
        checks.append(_growth(warm))
    return checks


def _growth(warm: Sequence[Sample]) -> Check:
    # Not memory_mb: shared pages weigh more once an unrelated process that shares them exits.
    held = [sum(one.resident_mb.values()) for one in warm]
    grown = growth([one.requests for one in warm], held)
    over = warm[-1].requests - warm[0].requests
    found = f"{grown:+.1f} MB over {over:,} requests"
    return Check("growth when warm", found, f"at most {_GROWTH_MB:.0f} MB", grown <= _GROWTH_MB)


def soak_figure(samples: Sequence[Sample]) -> Figure:
    """Memory, open files and throughput against the number of requests."""
    figure = new_figure(9, 7.2)
    with matplotlib.rc_context(STYLE):
        memory, files, speed = figure.subplots(3, 1, sharex=True, height_ratios=(2, 1, 1))
        _memory(memory, samples)
        places = [sample.requests for sample in samples]
        files.step(places, [sum(one.open_files.values()) for one in samples], color=COLORS[0])
        files.set(title="Open files and connections, all processes")
        _throughput(speed, samples)
        speed.set_xlabel("requests answered")
        speed.xaxis.set_major_formatter("{x:,.0f}")
        for axes in (memory, files, speed):
            axes.set_ylim(bottom=0)
            if places[-1] > WARM_AFTER:
                axes.axvline(WARM_AFTER, color=MUTED, linewidth=0.8, linestyle=":")
    return figure


def _memory(axes: Axes, samples: Sequence[Sample]) -> None:
    places = [sample.requests for sample in samples]
    heavy = sorted(samples[-1].resident_mb, key=samples[-1].resident_mb.__getitem__, reverse=True)
    for place, pid in enumerate(heavy[: len(COLORS) - 1]):
        held = [sample.resident_mb.get(pid, float("nan")) for sample in samples]
        axes.plot(places, held, color=COLORS[place + 1], label=f"process {place + 1}")
    total = [sample.memory_mb for sample in samples]
    axes.plot(places, total, color=COLORS[0], label="all, shared memory counted once")
    axes.axhline(MEMORY_MB, color=MUTED, linewidth=0.8, linestyle="--", label="limit per process")
    axes.set(title="Resident memory, MB (checked from the dotted line on)")
    axes.legend(ncols=3, loc="center right", bbox_to_anchor=(1, 0.35))


def _throughput(axes: Axes, samples: Sequence[Sample]) -> None:
    pairs = [
        (later.requests, (later.requests - earlier.requests) / (later.seconds - earlier.seconds))
        for earlier, later in pairwise(samples)
        if later.seconds > earlier.seconds
    ]
    axes.plot([place for place, _ in pairs], [speed for _, speed in pairs], color=COLORS[0])
    axes.set(title="Requests answered per second")


_ROUNDING = 2e-6  # responses have six decimals, and other batch sizes round differently
_WARM_UP = 500  # requests before files are counted
_LOOKS, _ALIKE = 60, 5  # samples of open files, five per second
_DEADLINE_MS = 60_000
_BODY_TIMEOUT_MS = 1000  # otherwise the stalling client would be answered too rarely


def main() -> int:
    """Runs, prints, writes; 0: passed, 1: failed, 2: could not start."""
    options = _options()
    try:
        path = user_path(options.model) if options.model else model_path(Settings())
        metadata = read_model(path)
        with tempfile.TemporaryDirectory(prefix="kiln-soak-") as folder:
            captures = folder if options.capture else ""
            tally, samples, checks = soak(path, metadata, options, captures)
            if captures:
                rows = sum(1 for _ in Captures(open_store(captures)).rows())
                checks.append(Check("answers captured", f"{rows:,}", "any", rows > 0))
    except (ArtifactError, ServerFailed) as exc:
        sys.stderr.write(f"kiln: error: {exc}\n")
        return 2
    _show(tally, checks)
    if options.output:
        _write(user_path(options.output), tally, samples, checks)
    return 0 if all(check.holds for check in checks) else 1


def soak(
    path: Path, metadata: ArtifactMetadata, options: argparse.Namespace, captures: str
) -> tuple[TrafficCounts, list[Sample], list[Check]]:
    """Starts the server and the clients, and samples resource usage meanwhile.

    Args:
        captures: where it captures; "" for nowhere.
    """
    key, digest = new_key()
    server = service(
        path,
        options.workers,
        KILN_API_KEYS=digest,
        KILN_CAPTURE=captures,
        KILN_LOG_LEVEL="warning",
        KILN_BODY_TIMEOUT_MS=str(_BODY_TIMEOUT_MS),
        # On a busy machine a batch of 100 may take longer than the default deadline, and a shed
        # request has no response to check.
        KILN_DEADLINE_MS=str(_DEADLINE_MS),
    )
    plan = Plan(
        server.port,
        all_cases(path, metadata, key),
        stalled(key),
        metadata.classes,
        options.callers,
        options.requests,
        options.seconds,
        max(_ROUNDING, metadata.parity.tolerance),
        options.bad,
        options.seed,
    )
    total = plan.requests or None
    with Progress("soaking", total) as progress, running(server, "/ready", None) as up:
        for _ in _tallies(replace(plan, requests=_WARM_UP)):
            pass
        before, said = _at_rest(up), _complaints(up)
        progress.begin("soaking", total)
        tally, samples = _watched(up, plan, progress)
        after, lines = _at_rest(up), _complaints(up) - said
    return tally, samples, judge(tally, samples, before, after, lines)


def _complaints(server: Running) -> int:
    """Lines in its log except drift, which is expected for images of noise."""
    return sum('"serve.drift.' not in line for line in server.said().splitlines())


def _watched(server: Running, plan: Plan, progress: Progress) -> tuple[TrafficCounts, list[Sample]]:
    tally, samples = TrafficCounts(), [look(server)]
    for tally in _tallies(plan):
        samples.append(look(server, tally.seconds, tally.requests))
        wrong, memory_mb = sum(tally.mistakes.values()), samples[-1].memory_mb
        said = f"{tally.requests:,} requests, {wrong} wrong, {memory_mb:.0f} MB"
        progress.update(tally.requests, detail=said)
    return tally, samples


def _tallies(plan: Plan) -> Iterator[TrafficCounts]:
    """The clients' counts, once per second; the last one is final."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.soak.traffic"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=python_environment(),
    ) as callers:
        assert callers.stdin is not None
        assert callers.stdout is not None
        pickle.dump(plan, callers.stdin)
        callers.stdin.close()
        for line in callers.stdout:
            yield TrafficCounts(**json.loads(line))
    if callers.returncode:
        raise ServerFailed(f"the callers' process ended with exit code {callers.returncode}")


def _at_rest(server: Running) -> Sample:
    """Once the number of open files is stable: connections take a moment to close."""
    seen: list[int] = []
    for _ in range(_LOOKS):
        sample = look(server)
        seen.append(sum(sample.open_files.values()))
        if len(seen) > _ALIKE and len(set(seen[-_ALIKE:])) == 1:
            break
        time.sleep(0.2)
    return sample


def _show(tally: TrafficCounts, checks: list[Check]) -> None:
    console = terminal(100)
    statuses = ", ".join(f"{status}: {n:,}" for status, n in sorted(tally.statuses.items()))
    speed = tally.requests / tally.seconds
    console.print(f"{tally.requests:,} requests in {tally.seconds:.0f} s ({speed:,.0f} a second)")
    console.print(f"answers by status: {statuses}")
    console.print(checks_table(checks))
    for example in tally.examples:
        console.print(example, markup=False, highlight=False)


def _write(folder: Path, tally: TrafficCounts, samples: list[Sample], checks: list[Check]) -> None:
    document = {
        "holds": all(check.holds for check in checks),
        "checks": [asdict(check) for check in checks],
        "tally": asdict(tally),
        "samples": [asdict(sample) for sample in samples],
    }
    write_whole(folder.with_suffix(".json"), json.dumps(document, indent=2).encode() + b"\n")
    write_whole(folder.with_suffix(".png"), to_png(soak_figure(samples)))
    sys.stderr.write(f"kiln: wrote {folder}of .json and .png\n")


def _options() -> argparse.Namespace:
    parser = command_parser("//serve:soak", __doc__)
    add = parser.add_argument
    add("--model", type=Path, help="default: the built-in one")
    add(
        "--requests", type=at_least(0), default=1_000_000, help="0: as many as possible in the time"
    )
    add("--seconds", type=count, default=570, help="at most (570)")
    add("--callers", type=count, default=32, help="at once (32)")
    add("--bad", type=share_or_none, default=0.3, help="share of mistakes (0.3)")
    add("--seed", type=int, default=0, help="of the order of requests (0)")
    add("--capture", action="store_true", help="into a folder, as it is by default")
    add("--output", type=Path, help="path of a .json and a .png, without those")
    workers = Settings().cpus
    add("--workers", type=count, default=workers, help="processes")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(interruptible(main))
