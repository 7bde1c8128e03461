"""For every alert: series that make it fire, and series just short of that, in promtool's notation.

One value a minute, or in fifteen where hours pass. `0+2x90` is 0, 2, 4 and so on; `_x6 3x9`
is nothing for six minutes, then 3.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_COUNT = "http_server_request_duration_seconds_count"
_BUCKET = "http_server_request_duration_seconds_bucket"
_INFER = "/v2/models/{name}/infer"
_UP = 'process_uptime_seconds{service_instance_id="a"}'


@dataclass(frozen=True)
class Case:
    """What is seen, and whether the alert fires at that time."""

    alert: str
    what: str
    series: dict[str, str]
    fires: bool
    at: str = "20m"

    @property
    def interval(self) -> str:
        """Between two values, and between two evaluations of the rules."""
        return "15m" if self.at.endswith("h") else "1m"

    @property
    def metrics(self) -> set[str]:
        """Whose series are seen."""
        return {name.partition("{")[0] for name in self.series}


def _requests(good: str, bad: str) -> dict[str, str]:
    return {
        f'{_COUNT}{{http_route="/predict",http_response_status_code="200"}}': good,
        f'{_COUNT}{{http_route="/predict",http_response_status_code="500"}}': bad,
    }


def _answers(within: str, slow: str, bound: str, route: str = "/predict") -> dict[str, str]:
    return {
        f'{_BUCKET}{{http_route="{route}",le="{bound}"}}': within,
        f'{_BUCKET}{{http_route="{route}",le="5"}}': slow,
        f'{_BUCKET}{{http_route="{route}",le="+Inf"}}': slow,
    }


def _golden(value: str) -> dict[str, str]:
    return {'kiln_golden_accuracy_ratio{faas_version="7"}': value}


def _cpu(idle: str, busy: str) -> dict[str, str]:
    return {
        'node_cpu_seconds_total{cpu="0",mode="idle"}': idle,
        'node_cpu_seconds_total{cpu="0",mode="user"}': busy,
    }


def _disk(left: str) -> dict[str, str]:
    mount = '{device="/dev/sda",fstype="ext4",mountpoint="/"}'
    return {
        f"node_filesystem_avail_bytes{mount}": left,
        f"node_filesystem_size_bytes{mount}": "100x30",
    }


def _memory(left: str) -> dict[str, str]:
    return {"node_memory_MemAvailable_bytes": left, "node_memory_MemTotal_bytes": "100x30"}


def _of(
    alert: str, fires: tuple[str, dict[str, str]], quiet: tuple[str, dict[str, str]]
) -> list[Case]:
    return [Case(alert, *fires, True), Case(alert, *quiet, False)]


_INTERNAL = 'kiln_errors_total{error_type="internal-error"}'
_OVERLOADED = 'kiln_errors_total{error_type="overloaded"}'

CASES: list[Case] = [
    *_of(
        "ErrorShare",
        ("2 % of the answers", _requests("0+98x30", "0+2x30")),
        ("0.5 %", _requests("0+199x30", "0+1x30")),
    ),
    # A process's first 500 is a new series: `increase` would not see it.
    Case("ErrorShare", "the first 500s of all", _requests("0+98x30", "_x17 20x12"), True),
    Case("ErrorShare", "500s long ago", _requests("0+98x30", "0+20x5 100x25"), False),
    *_of(
        "SlowAnswers",
        ("3 % slower than a second", _answers("0+97x30", "0+100x30", "1")),
        ("0.5 %", _answers("0+199x30", "0+200x30", "1")),
    ),
    *_of(
        "SlowAnswers",
        ("slow by the open inference protocol", _answers("0+97x30", "0+100x30", "1", _INFER)),
        ("slow batches", _answers("0+97x30", "0+100x30", "1", "/predict/batch")),
    ),
    *_of(
        "InternalErrors",
        ("a single one", {_INTERNAL: "_x18 1x9"}),
        ("others", {_OVERLOADED: "_x18 1x9"}),
    ),
    Case("InternalErrors", "one, ten minutes ago", {_INTERNAL: "_x9 1x20"}, False),
    *_of(
        "Overload",
        ("2 a second", {"kiln_requests_shed_total": "0+120x30"}),
        ("1 in two seconds", {"kiln_requests_shed_total": "0+30x30"}),
    ),
    *_of(
        "QueueFills",
        ("401", {"kiln_queue_depth": "5x17 401 5x9"}),
        ("400", {"kiln_queue_depth": "400x30"}),
    ),
    *_of(
        "SlowStart",
        ("6 s", {"kiln_cold_start_duration_seconds": "6x30"}),
        ("5 s", {"kiln_cold_start_duration_seconds": "5x30"}),
    ),
    *_of(
        "TelemetryLost",
        ("an export lost", {'kiln_telemetry_dropped_total{signal="metrics"}': "0x15 1x15"}),
        ("lost long ago", {'kiln_telemetry_dropped_total{signal="metrics"}': "3x30"}),
    ),
    *_of(
        "MemoryGrows",
        ("401 MB", {"process_memory_usage_bytes": "100000000x10 401000000x20"}),
        ("400 MB", {"process_memory_usage_bytes": "400000000x30"}),
    ),
    *_of(
        "FilesLeak",
        ("801 files", {"process_unix_file_descriptor_count": "801x30"}),
        ("800", {"process_unix_file_descriptor_count": "800x30"}),
    ),
    *_of(
        "Drift",
        (
            "one process of two",
            {
                f'kiln_drift_alarm_ratio{{window="300",service_instance_id="{i}"}}': f"{i}x30"
                for i in (0, 1)
            },
        ),
        ("none", {'kiln_drift_alarm_ratio{window="300"}': "0x30"}),
    ),
    *_of(
        "CapturesLost",
        ("one lost", {'kiln_capture_dropped_total{reason="no-room"}': "0x15 1x15"}),
        ("lost long ago", {'kiln_capture_dropped_total{reason="no-room"}': "3x30"}),
    ),
    *_of(
        "ReleaseRolledBack",
        ("rolled back", {"kiln_release_verdict_ratio": "0x15 -1x15"}),
        ("held, then promoted", {"kiln_release_verdict_ratio": "0x15 1x15"}),
    ),
    *_of(
        "AccuracyBelowPromise",
        ("a point below", {"kiln_model_accuracy_headroom_ratio": "-0.01x30"}),
        ("below, then not", {"kiln_model_accuracy_headroom_ratio": "-0.01x10 0.01 -0.01x18"}),
    ),
    *_of("GoldenAccuracyLow", ("89 %", _golden("0.89x30")), ("90 %", _golden("0.9x30"))),
    *_of(
        "MachineBusy",
        ("5 % idle", _cpu("0+3x30", "0+57x30")),
        ("20 % idle", _cpu("0+12x30", "0+48x30")),
    ),
    *_of("MachineMemoryLow", ("9 % left", _memory("50x15 9x15")), ("10 %", _memory("10x30"))),
    *_of("MachineDiskLow", ("9 % left", _disk("50x15 9x15")), ("10 %", _disk("10x30"))),
    *_of(
        "StackPartDown",
        ("one of two", {'up{job="vmagent"}': "0x30", 'up{job="machine"}': "1x30"}),
        ("none", {'up{job="vmagent"}': "1x30"}),
    ),
    # An outage from the 30th minute on is noticed after the three that a process may be silent.
    Case("RecoveryTooSlow", "down for six minutes", {_UP: "0+60x30"}, True, "39m"),
    Case("RecoveryTooSlow", "down for four minutes", {_UP: "0+60x30"}, False, "36m"),
    Case("RecoveryTooSlow", "never up", {}, False, "60m"),
    Case("AvailabilityFastBurn", "down", {_UP: "0+60x30"}, True, "35m"),
    Case("AvailabilityFastBurn", "up again", {_UP: "0+60x30 _x5 0+60x60"}, False, "80m"),
    Case(
        "AvailabilityFastBurn",
        "every 10th answer a 500",
        {_UP: "0+60x90", **_requests("0+90x90", "0+10x90")},
        True,
        "80m",
    ),
    Case(
        "AvailabilityFastBurn",
        "every 50th answer a 500",
        {_UP: "0+60x90", **_requests("0+98x90", "0+2x90")},
        False,
        "80m",
    ),
    Case(
        "AvailabilitySlowBurn",
        "down for a quarter of an hour of a day, lately",
        {_UP: "0+900x95"},
        True,
        "24h",
    ),
    Case("AvailabilitySlowBurn", "up all day", {_UP: "0+900x100"}, False, "24h"),
    Case("ErrorsFastBurn", "2 % for an hour", _requests("0+98x90", "0+2x90"), True, "2h"),
    Case(
        "ErrorsFastBurn",
        "2 % of what callers ask, beside many probes",
        _requests("0+98x90", "0+2x90")
        | {
            f'{_COUNT}{{http_route="{route}",http_response_status_code="200"}}': "0+1000x90"
            for route in ("/ready", "/v2/health/ready", "/v2/models/{name}/ready")
        },
        True,
        "2h",
    ),
    Case("ErrorsFastBurn", "0.5 %", _requests("0+199x90", "0+1x90"), False, "2h"),
    Case(
        "ErrorsFastBurn",
        "20 %, but it has stopped",
        _requests("0+80x60 4800+100x50", "0+20x60 1200x50"),
        False,
        "100m",
    ),
    Case("ErrorsFastBurn", "0.8 % for six hours", _requests("0+992x400", "0+8x400"), True, "7h"),
    Case("ErrorsSlowBurn", "0.4 % for a day", _requests("0+249x100", "0+1x100"), True, "24h"),
    Case("ErrorsSlowBurn", "0.05 %", _requests("0+1999x100", "0+1x100"), False, "24h"),
    Case("LatencyFastBurn", "20 % slow", _answers("0+80x90", "0+100x90", "0.25"), True, "2h"),
    Case(
        "LatencyFastBurn",
        "20 % slow by the open inference protocol, a version named",
        _answers("0+80x90", "0+100x90", "0.25", "/v2/models/{name}/versions/{version}/infer"),
        True,
        "2h",
    ),
    Case("LatencyFastBurn", "5 % slow", _answers("0+95x90", "0+100x90", "0.25"), False, "2h"),
    Case(
        "LatencySlowBurn",
        "4 % slow for a day",
        _answers("0+96x100", "0+100x100", "0.25"),
        True,
        "24h",
    ),
    Case("LatencySlowBurn", "0.5 % slow", _answers("0+199x100", "0+200x100", "0.25"), False, "24h"),
]


def promtool_test(file: str, content: Mapping[str, Any], interval: str = "1m") -> dict[str, Any]:
    """A test of the rules in `file`, whose content this is, by the cases with that interval."""
    cases = [case for case in CASES if case.interval == interval]
    return {
        "rule_files": [file],
        "evaluation_interval": interval,
        # Else in any order, and what one group records would reach the next an interval late.
        "group_eval_order": [group["name"] for group in content["groups"]],
        "tests": [_test(some) for some in together(cases, content)],
    }


def together(cases: Iterable[Case], content: Mapping[str, Any]) -> list[list[Case]]:
    """Cases that one run can have: no alert looks at series of another case."""
    runs: list[list[Case]] = []
    for case in cases:
        free = (run for run in runs if not any(_meet(case, other, content) for other in run))
        run = next(free, None)
        if run is None:
            runs.append(run := [])
        run.append(case)
    return runs


def _meet(one: Case, other: Case, content: Mapping[str, Any]) -> bool:
    return not (
        one.metrics.isdisjoint(other.metrics | _read(other.alert, content))
        and other.metrics.isdisjoint(_read(one.alert, content))
    )


def _read(alert: str, content: Mapping[str, Any]) -> set[str]:
    """Every name in the alert's expression and in those of what is recorded for it."""
    expressions: dict[str, str] = {}
    for rule in (rule for group in content["groups"] for rule in group["rules"]):
        name = rule.get("alert") or rule["record"]
        expressions[name] = f"{expressions.get(name, '')} {rule['expr']}"
    found: set[str] = set()
    new = {alert}
    while new:
        found |= new
        texts = (expressions.get(name, "") for name in new)
        new = {name for text in texts for name in re.findall(r"[a-zA-Z_:][\w:]*", text)} - found
    return found


def _test(cases: Sequence[Case]) -> dict[str, Any]:
    series = {name: values for case in cases for name, values in case.series.items()}
    return {
        "name": "; ".join(f"{case.alert}: {case.what}" for case in cases),
        "interval": cases[0].interval,
        "input_series": [{"series": k, "values": v} for k, v in series.items()],
        "promql_expr_test": [_expectation(case) for case in cases],
    }


def _expectation(case: Case) -> dict[str, Any]:
    name = f'ALERTS{{alertname="{case.alert}",alertstate="firing"}}'
    samples = [{"labels": f'{{alertname="{case.alert}"}}', "value": 1}] if case.fires else []
    return {
        "expr": f"max by (alertname) ({name})",
        "eval_time": case.at,
        "exp_samples": samples,
    }
