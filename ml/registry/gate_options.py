"""Where the gates stand, on the command line."""

from __future__ import annotations

import argparse
from typing import Any

from ml.registry.limits import Limits


def add_gate_options(sub: argparse.ArgumentParser) -> None:
    """Adds an option for each field of `Limits`; what is not typed stays out of the result."""
    limits = Limits()
    gates = sub.add_argument_group("gates")
    number: dict[str, Any] = {"type": float, "metavar": "X", "default": argparse.SUPPRESS}
    gates.add_argument("--margin", **number, help=f"accuracy that may be lost ({limits.margin})")
    gates.add_argument(
        "--alpha", **number, help=f"chance of passing a model that loses more ({limits.alpha})"
    )
    gates.add_argument(
        "--must-be-better",
        action="store_true",
        default=argparse.SUPPRESS,
        help="significantly better than the champion, not only no worse",
    )
    gates.add_argument("--min-accuracy", **number, help="share of images (no limit)")
    gates.add_argument(
        "--max-calibration-error", **number, help=f"({limits.max_calibration_error})"
    )
    gates.add_argument(
        "--max-bytes", **number | {"type": int}, help=f"size of the file ({limits.max_bytes:,})"
    )
    gates.add_argument("--p99-ms", **number, help=f"one image on one thread ({limits.p99_ms:g})")
    gates.add_argument(
        "--use-benchmark",
        action="store_true",
        help="take the latency from the benchmark in the run folder instead of measuring it",
    )
