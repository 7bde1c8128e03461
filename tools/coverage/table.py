"""Prints what `bazel coverage //...` measured: `bazel run //tools:coverage -- --fail-under=90`."""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common.files import workspace_folder
from common.programs import tracked_files
from common.terminal import Progress
from tools.coverage import lcov

FOLDERS = ("benchmarks", "common", "infra", "ml", "serve", "tools")
REPORT = Path("bazel-out/_coverage/_coverage_report.dat")


@dataclass
class Row:
    lines: int = 0
    lines_hit: int = 0
    branches: int = 0
    branches_hit: int = 0

    def add(self, coverage: lcov.FileCoverage) -> None:
        self.lines += len(coverage.lines)
        self.lines_hit += coverage.lines_hit
        self.branches += len(coverage.branches)
        self.branches_hit += coverage.branches_hit

    @property
    def percent(self) -> float:
        return _percent(self.lines_hit, self.lines)


def main(argv: Sequence[str]) -> int:
    options = _parse(argv)
    os.chdir(workspace_folder())
    if not options.report.is_file():
        print(f"coverage: no {options.report}; run first: bazel coverage //...", file=sys.stderr)
        return 2
    with Progress("reading the report") as progress:
        measured = lcov.parse(options.report.read_text(encoding="utf-8"))
        sources = sorted(name for name in tracked_files(*FOLDERS) if name.endswith(".py"))
        files = dict[str, lcov.FileCoverage]()
        progress.begin("counting statements", len(sources))
        for path in sources:
            files[path] = _known(measured, path) or never_imported(path)
            progress.advance()
    print(table(files))
    total = _total(files)
    if total.percent < options.fail_under:
        print(f"coverage: {total.percent:.1f} % of lines, wanted {options.fail_under:g} %")
        return 1
    return 0


def table(files: Mapping[str, lcov.FileCoverage]) -> str:
    """A row per folder, then the total."""
    rows: defaultdict[str, Row] = defaultdict(Row)
    for path, coverage in files.items():
        rows[str(PurePosixPath(path).parent)].add(coverage)
    width = max(map(len, [*rows, "folder"]))
    head = f"{'folder':{width}}   lines   covered  branches   covered"
    body = [_line(folder, rows[folder], width) for folder in sorted(rows) if rows[folder].lines]
    return "\n".join([head, *body, _line("total", _total(files), width)])


def never_imported(path: str) -> lcov.FileCoverage:
    """A file that no test imported: all its statements count as missed."""
    from coverage import Coverage

    analysis = Coverage(data_file=None, config_file="pyproject.toml").analysis2(path)
    return lcov.FileCoverage(lines=dict.fromkeys(analysis[1], 0))


def _known(measured: Mapping[str, lcov.FileCoverage], path: str) -> lcov.FileCoverage | None:
    """The measured coverage; None for a file that Bazel only lists, in a section without lines."""
    coverage = measured.get(path)
    return coverage if coverage and coverage.lines else None


def _total(files: Mapping[str, lcov.FileCoverage]) -> Row:
    total = Row()
    for coverage in files.values():
        total.add(coverage)
    return total


def _line(name: str, row: Row, width: int) -> str:
    lines = f"{row.lines:6}  {_percent(row.lines_hit, row.lines):6.1f} %"
    branches = f"{row.branches:8}  {_percent(row.branches_hit, row.branches):6.1f} %"
    return f"{name:{width}}  {lines}  {branches if row.branches else '       -        -'}".rstrip()


def _percent(hit: int, of: int) -> float:
    return 100 * hit / of if of else 100.0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bazel run //tools:coverage --", description=__doc__)
    parser.add_argument("--fail-under", type=float, default=0, metavar="PERCENT")
    parser.add_argument("--report", type=Path, default=REPORT, help="an LCOV file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
