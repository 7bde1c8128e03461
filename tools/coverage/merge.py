"""Adds up LCOV files for Bazel: one test's own after it ran, and all tests' in the combined report.

Bazel's built-in tool for both steps is a Java program fetched from GitHub; all our coverage comes
from coverage.py, so these few lines do the same work anywhere.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tools.coverage import lcov


def main(argv: Sequence[str]) -> int:
    options = _parse(argv)
    tracefiles = (lcov.parse(path.read_text(encoding="utf-8")) for path in _inputs(options))
    report = lcov.render(lcov.merge(tracefiles))
    aside = options.output_file.with_name(f"{options.output_file.name}.new")
    aside.write_text(report, encoding="utf-8")
    os.replace(aside, options.output_file)
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--coverage_dir", type=Path, help="folder whose .dat files are added up")
    source.add_argument("--reports_file", type=Path, help="file that lists one LCOV file per line")
    parser.add_argument("--output_file", type=Path, required=True)
    # Bazel also names sources to leave out; the measurement was already limited to ours.
    return parser.parse_known_args(argv)[0]


def _inputs(options: argparse.Namespace) -> Iterable[Path]:
    if options.coverage_dir:
        return sorted(options.coverage_dir.rglob("*.dat"))
    listed = options.reports_file.read_text(encoding="utf-8").split("\n")
    return [Path(line) for line in listed if line]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
