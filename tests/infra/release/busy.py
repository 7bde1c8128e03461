"""Good releases on a machine that is busy with something else: none of them may be rolled back.

One after the other, in a cloud on loopback, by the limits of the twin, while processes that only
compute take the CPU from it.

  PYTHONPATH=. python -m tests.infra.release.busy --releases 20 --loops 1
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.infra.release.conftest import in_a_cloud
from tests.infra.release.world import Result, World

# The limits of infra/twin/release.toml, in looks that a few hundred requests fill.
SETTINGS = """
strategy = "canary"
on_hold = "stop"
most_hold_s = 60
watch_s = 0.5
poll_s = 0.2
settle_s = 1

[canary]
weights = [0.2, 0.5]
bake_s = 3
look_s = 1.5

[golden]
per_look = 100
concurrency = 2
budget_s = 5

[verdict]
harmful_accuracy_loss = 0.02
harmful_error_excess = 0.01
harmful_latency_ratio = 4.0
"""


@contextmanager
def loops(count: int) -> Iterator[None]:
    """Processes that do nothing but compute."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def release(world: World, number: int) -> Result:
    """One of a model that is as good as the one before."""
    image = world.push(f"{number:064x}")
    with world.traffic(callers=4):
        return world.deploy(image)


def main(arguments: Sequence[str]) -> int:
    """Releases, prints what became of each; the exit code says whether one was rolled back."""
    parser = argparse.ArgumentParser(
        prog="busy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--releases", type=int, default=20, metavar="N", help="(%(default)s)")
    parser.add_argument("--loops", type=int, default=1, metavar="N", help="(%(default)s)")
    options = parser.parse_args(arguments)
    outcomes = Counter[str]()
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory() as folder,
        in_a_cloud(Path(folder), patch, keep_idle_s=60) as world,
    ):
        world.config.write_text(SETTINGS)
        world.create(world.push("a" * 64))
        with loops(options.loops):
            for number in range(1, options.releases + 1):
                start = time.monotonic()
                result = release(world, number)
                outcome = str(result.data.get("outcome", result.data))
                outcomes[outcome] += 1
                why = "" if outcome == "promoted" else result.data["text"]
                print(f"{number:3} {outcome}, {time.monotonic() - start:.0f} s {why}", flush=True)
                if outcome == "stop":
                    world.rollback()
    print(", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()))
    return int(outcomes["rolled back"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
