"""Summarises the tests of one `bazel test` from its build events, at the end of .ci/run.

The events list exactly the results of that run, cached ones included; the folder bazel-testlogs
also keeps results of deleted targets.
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree  # written by our own tests
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LOG_TAIL = 60  # lines of a failed test's log to show
SLOWEST = 10  # targets in the table
Event = dict[str, Any]


@dataclass
class CaseCounts:
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    logs: dict[str, Path] = field(default_factory=dict)
    # Durations of the shards that ran now.
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def line(self) -> str:
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"{self.passed} passed, {len(self.failed)} failed{skipped}"


def main(argv: Sequence[str]) -> int:
    """Exits with 1 if a test failed or none passed."""
    tally = count(read_events(Path(argv[0])))
    for name, log in tally.logs.items():
        print(f"\n---- {name}: end of its log ----")
        print("\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL:]))
    print()
    for kind, names in (("SKIPPED", tally.skipped), ("FAILED", tally.failed)):
        for name in names:
            print(f"{kind} {name}")
    print("\n".join(slowest(tally.seconds)))
    print(tally.line)
    return 1 if tally.failed or not tally.passed else 0


def slowest(seconds: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """The slowest targets, by the sum of their shards' durations."""
    if seconds:
        together = sum(map(sum, seconds.values()))
        yield f"Slowest of the {len(seconds)} targets that ran, in {together:,.0f} s together:"
    for label in sorted(seconds, key=lambda label: -sum(seconds[label]))[:SLOWEST]:
        shards = f" in {len(seconds[label])} shards" if len(seconds[label]) > 1 else ""
        yield f"{sum(seconds[label]):8.1f} s  {label}{shards}"
    if seconds:
        yield ""


def read_events(path: Path) -> Iterator[Event]:
    if path.exists():
        with path.open(encoding="utf-8") as lines:
            yield from (json.loads(line) for line in lines if line.strip())


def count(events: Iterable[Event]) -> CaseCounts:
    """Test cases by outcome; a target that failed without a report counts as one failure."""
    tally, results = CaseCounts(), {}
    for event in events:
        identity = event["id"]
        if "testResult" in event:
            test = identity["testResult"]
            results[test["label"], test.get("run"), test.get("shard")] = event["testResult"]
        elif "targetCompleted" in identity and not event.get("completed", {}).get("success"):
            tally.failed.append(f"{identity['targetCompleted']['label']}: did not build")
    for (label, _, _), result in results.items():  # the last of several attempts
        _add_result(tally, label, result)
        if not result.get("cachedLocally"):
            tally.seconds.setdefault(label, []).append(_seconds(result))
    return tally


def _add_result(tally: CaseCounts, label: str, result: Event) -> None:
    outputs = {output["name"]: output["uri"] for output in result.get("testActionOutput", [])}
    cases = list(_cases(_local(outputs.get("test.xml"))))
    failed_before = len(tally.failed)
    for case in cases:
        _add_case(tally, label, case)
    if result["status"] not in ("PASSED", "FLAKY"):
        if len(tally.failed) == failed_before:
            tally.failed.append(f"{label}: {result['status']}")
        if (log := _local(outputs.get("test.log"))) is not None:
            tally.logs[label] = log


def _seconds(result: Event) -> float:
    return float(result.get("testAttemptDurationMillis", 0)) / 1000  # strings in the events


def _add_case(tally: CaseCounts, label: str, case: ElementTree.Element) -> None:
    name = f"{label}: {case.get('name')}"
    if case.find("failure") is not None or case.find("error") is not None:
        tally.failed.append(name)
    elif (skip := case.find("skipped")) is not None:
        tally.skipped.append(f"{name}: {skip.get('message', '')}")
    else:
        tally.passed += 1


def _cases(report: Path | None) -> Iterator[ElementTree.Element]:
    if report is not None:
        try:
            yield from ElementTree.parse(report).iter("testcase")  # noqa: S314 # ours
        except ElementTree.ParseError:
            return  # truncated with its test, whose status still counts


def _local(uri: str | None) -> Path | None:
    parts = urlsplit(uri or "")
    path = Path(unquote(parts.path))
    return path if parts.scheme == "file" and path.is_file() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
