"""The stage `benchmark`: runs //ml:benchmark on the exported model, and writes figures to
compare.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from common.files import write_whole
from ml.benchmark.main import main as run_benchmark
from ml.pipeline.layout import (
    METRICS,
    PARAMS,
    RUN,
    ChoicesError,
    csv_text,
    enter_stage,
    read_choices,
)

_SUMMARY = ("model", "p50_ms", "images_per_s", "megabytes", "memory_mb", "cold_load_s")


def arguments(choices: Mapping[str, Any], run: Path) -> list[str]:
    """Arguments for //ml:benchmark, from the section in params.yaml.

    Raises:
        ChoicesError: an unknown name.
    """
    if unknown := sorted(choices.keys() - {"threads", "batches", "seconds"}):
        raise ChoicesError(
            f"{PARAMS}: benchmark has threads, batches and seconds, found {', '.join(unknown)}"
        )
    typed = [str(run)]
    for name, value in choices.items():
        values = value if isinstance(value, list) else [value]
        typed += [f"--{name}", *map(str, values)]
    return typed


def summary_rows(results: Mapping[str, Any]) -> Iterator[list[Any]]:
    """For each contender that ran: latency of the smallest batch, best throughput and sizes, in the
    benchmark's order.

    Args:
        results: the content of benchmark.json.
    """
    threads = {row["threads"] for row in results["results"]}
    for row in results["results"]:
        if found := row["measurement"]:
            points = found["points"]
            suffix = f", {row['threads']} threads" if len(threads) > 1 else ""
            yield [
                row["name"] + suffix,
                min(points, key=lambda point: point["batch"])["p50_ms"],
                max(point["images_per_s"] for point in points),
                row["size_bytes"] / 1e6,
                found["peak_memory_bytes"] / 1e6,
                found["cold_load_s"],
            ]


def figures(rows: list[list[Any]]) -> dict[str, dict[str, float]]:
    """The table for `dvc metrics`, with words as names."""
    return {
        re.sub(r"\W+", "_", row[0]).strip("_").lower(): {
            name: float(f"{value:.4g}") for name, value in zip(_SUMMARY[1:], row[1:], strict=True)
        }
        for row in rows
    }


def main() -> int:
    enter_stage()
    try:
        typed = arguments(read_choices(PARAMS, "benchmark"), RUN.absolute())
    except ChoicesError as exc:
        print(exc, file=sys.stderr)
        return 2
    status = run_benchmark(typed, Console(width=140))
    if status:
        return status
    results = json.loads((RUN / "benchmark" / "benchmark.json").read_text(encoding="utf-8"))
    rows = list(summary_rows(results))
    write_whole(RUN / "benchmark" / "summary.csv", csv_text(_SUMMARY, rows))
    write_whole(METRICS / "benchmark.json", json.dumps(figures(rows), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
