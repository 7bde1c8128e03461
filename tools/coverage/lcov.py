"""LCOV tracefiles: reading, merging, writing. Line and branch records only; nothing reads others.

Bazel runs this program to merge the files of each test, and those of all tests for the combined
report. Its built-in tool is a Java program from GitHub; all our coverage comes from coverage.py, so
this module does the same work anywhere.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.files import write_whole

Branch = tuple[int, str, str]  # line, block, branch


@dataclass
class FileCoverage:
    """Execution counts of lines and branches; None is a branch whose line never ran."""

    lines: dict[int, int] = field(default_factory=dict)
    branches: dict[Branch, int | None] = field(default_factory=dict)

    def add(self, other: FileCoverage) -> None:
        for line, hits in other.lines.items():
            self.lines[line] = self.lines.get(line, 0) + hits
        for branch, taken in other.branches.items():
            mine = self.branches.get(branch)
            self.branches[branch] = taken if mine is None else mine + (taken or 0)

    @property
    def lines_hit(self) -> int:
        return sum(hits > 0 for hits in self.lines.values())

    @property
    def branches_hit(self) -> int:
        return sum(bool(taken) for taken in self.branches.values())


def parse(text: str) -> dict[str, FileCoverage]:
    """Coverage by source path.

    Raises:
        ValueError: a record is malformed or outside a file's section.
    """
    files: dict[str, FileCoverage] = {}
    current: FileCoverage | None = None
    for number, record in enumerate(text.splitlines(), start=1):
        kind, _, value = record.partition(":")
        try:
            if kind == "SF":
                current = files.setdefault(value, FileCoverage())
            elif kind == "end_of_record":
                current = None
            elif kind in ("DA", "BRDA"):
                if current is None:
                    raise ValueError("no SF record before it")
                current.add(_record(kind, value))
        except ValueError as exc:
            raise ValueError(f"Malformed LCOV record in line {number}: {record!r} ({exc})") from exc
    return files


def merge(tracefiles: Iterable[Mapping[str, FileCoverage]]) -> dict[str, FileCoverage]:
    merged: dict[str, FileCoverage] = {}
    for files in tracefiles:
        for path, coverage in files.items():
            merged.setdefault(path, FileCoverage()).add(coverage)
    return merged


def render(files: Mapping[str, FileCoverage]) -> str:
    """Renders coverage as text; equal coverage gives equal text."""
    return "".join(_section(path, files[path]) for path in sorted(files))


def _record(kind: str, value: str) -> FileCoverage:
    if kind == "DA":
        line, hits = value.split(",")[:2]  # a checksum may follow
        return FileCoverage(lines={int(line): int(hits)})
    line, block, rest = value.split(",", 2)
    branch, taken = rest.rsplit(",", 1)
    return FileCoverage(branches={(int(line), block, branch): None if taken == "-" else int(taken)})


def _section(path: str, coverage: FileCoverage) -> str:
    records = [f"SF:{path}"]
    for (line, block, branch), taken in sorted(coverage.branches.items()):
        records.append(f"BRDA:{line},{block},{branch},{'-' if taken is None else taken}")
    records += [f"BRF:{len(coverage.branches)}", f"BRH:{coverage.branches_hit}"]
    records += [f"DA:{line},{hits}" for line, hits in sorted(coverage.lines.items())]
    records += [f"LF:{len(coverage.lines)}", f"LH:{coverage.lines_hit}", "end_of_record"]
    return "\n".join(records) + "\n"


def main(argv: Sequence[str]) -> int:
    options = _parse(argv)
    tracefiles = (parse(path.read_text(encoding="utf-8")) for path in _inputs(options))
    write_whole(options.output_file, render(merge(tracefiles)))
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--coverage_dir", type=Path, help="folder whose .dat files are added up")
    source.add_argument("--reports_file", type=Path, help="file that lists one LCOV file per line")
    parser.add_argument("--output_file", type=Path, required=True)
    # Bazel also lists sources to exclude; the measurement was already limited to ours.
    return parser.parse_known_args(argv)[0]


def _inputs(options: argparse.Namespace) -> Iterable[Path]:
    if options.coverage_dir:
        return sorted(options.coverage_dir.rglob("*.dat"))
    listed = options.reports_file.read_text(encoding="utf-8").split("\n")
    return [Path(line) for line in listed if line]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
