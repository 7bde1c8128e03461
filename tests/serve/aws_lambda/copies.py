"""A process that is made ready as for a SnapStart snapshot, and copies of it two hours later.

    python copies.py COPIES

A copy is a fork whose state is as the original's was: what Python renews by itself in a fork, and
would not in a snapshot, is taken back. Its clocks are two hours ahead. Prints a line of JSON for
each, of what it drew and answered.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
from awslambdaric.lambda_runtime_hooks_runner import run_after_restore, run_before_snapshot

from serve.aws_lambda.lifecycle import one_pixel_event, register_snapshot_hooks

AHEAD_S = 2 * 3600
CALLS = 2
CONTEXT = SimpleNamespace(get_remaining_time_in_millis=lambda: 60_000, aws_request_id="id")


def set_clocks_ahead() -> None:
    """All but the one that requests are timed by, which dataclasses hold on to."""
    wall, wall_ns, monotonic = time.time, time.time_ns, time.monotonic
    time.time = lambda: wall() + AHEAD_S
    time.time_ns = lambda: wall_ns() + AHEAD_S * 10**9
    time.monotonic = lambda: monotonic() + AHEAD_S


def live() -> dict[str, Any]:
    """What a copy does, from its restoration to its end."""
    from serve.aws_lambda.handler import handler, telemetry

    set_clocks_ahead()
    restored_ns = time.time_ns()
    run_after_restore()
    answers = [handler(one_pixel_event(), CONTEXT) for _ in range(CALLS)]
    telemetry.close()
    return {
        "restored_ns": restored_ns,
        "random": random.getrandbits(64),
        "numpy": int(np.random.randint(2**62)),  # the shared one
        "statuses": [answer["statusCode"] for answer in answers],
        "request_ids": [answer["headers"]["x-request-id"] for answer in answers],
    }


def main() -> None:
    register_snapshot_hooks()
    run_before_snapshot()
    from serve.aws_lambda.handler import telemetry

    assert telemetry.flush(60)  # so that connections are open when the snapshot is taken
    state = random.getstate()
    np.random.seed(0)  # the service loads no such module; what a project adds to it may
    for _ in range(int(sys.argv[1])):
        if os.fork() == 0:
            random.setstate(state)
            os.write(1, json.dumps(live()).encode() + b"\n")
            os._exit(0)
        _, status = os.wait()
        assert status == 0


if __name__ == "__main__":
    main()
