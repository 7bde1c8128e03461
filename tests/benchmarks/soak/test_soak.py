"""benchmarks/soak: the real server under the real callers, each kind of request at least once."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.soak.cases import all_cases, bad_cases, stalled
from benchmarks.soak.outage import Found, Phase, judge
from benchmarks.soak.traffic import Plan, Traffic, TrafficCounts
from serve.inference.model_path import read_model
from tests.benchmarks.programs import progress, run
from tests.serve.serving import MODEL


def test_every_kind_of_request_is_answered_rightly(tmp_path: Path) -> None:
    done = run(
        *("benchmarks.soak.main", "--model", str(MODEL), "--output", str(tmp_path / "soak")),
        *("--requests", "250", "--callers", "4", "--workers", "1", "--capture"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(progress(done.stderr, "soaking")) >= 4
    found = json.loads((tmp_path / "soak.json").read_text())
    assert found["holds"]
    assert found["tally"]["requests"] == 250
    assert found["checks"][-1]["name"] == "answers captured"
    asked = all_cases(MODEL, read_model(MODEL), "key")
    assert found["tally"]["cases"].keys() >= {case.name for case in asked}
    assert {"200", "400", "401", "404", "405", "413", "415", "422"} <= set(
        found["tally"]["statuses"]
    )
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")


def test_every_type_of_image_comes_in_every_way_of_sending_it() -> None:
    names = {case.name for case in all_cases(MODEL, read_model(MODEL), "key")}
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        assert {f"{kind} as {way}" for way in ("JSON", "data URL", "file", "form")} <= names


def test_a_server_that_hangs_up_is_blamed() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    async def soak() -> TrafficCounts:
        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        cases = [case for case in bad_cases("key") if not case.ends]
        plan = Plan(port, cases, stalled("key"), ("cat",), 1, 5, 60, 1e-5, bad=1.0)
        tally = await Traffic(plan, lambda _: None).run()
        server.close()
        return tally

    assert asyncio.run(soak()).mistakes["no answer"] >= 5


def test_what_makes_no_sense_is_said_in_a_line() -> None:
    done = run("benchmarks.soak.main", "--callers", "0")
    assert done.returncode == 2
    assert "--callers" in done.stderr
    done = run("benchmarks.soak.main", "--model", "/no/such/model.onnx")
    assert done.returncode == 2
    assert "/no/such/model.onnx" in done.stderr


def test_what_is_captured_is_in_the_store_or_counted_when_the_store_was_away(
    tmp_path: Path,
) -> None:
    done = run(
        *("benchmarks.soak.outage", "--model", str(MODEL), "--output", str(tmp_path / "found")),
        *("--before", "1", "--away", "2", "--after", "3", "--rate", "20"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found").read_text())
    assert found["holds"]
    assert 0 < found["rows"] == found["asked"]


@pytest.mark.parametrize(
    "change",
    [
        {"failed": 1},
        {"rows": 890, "kept": 890},
        {"kept": 901},
        {"twice": 1},
        {"late": 0},
        {"phases": [Phase("", most_mb=60), Phase("", answers=5, most_mb=81), Phase("")]},
        {"phases": [Phase("", most_mb=60), Phase("", most_mb=61), Phase("")]},
    ],
)
def test_each_promise_of_an_outage_can_be_broken(change: dict[str, Any]) -> None:
    phases = [Phase("", most_mb=60), Phase("", answers=600, most_mb=65), Phase("")]
    good = Found(phases, 1000, 0, 900, {"no-room": 100}, 900, 0, 50)
    assert all(check.holds for check in judge(good))
    assert sum(not check.holds for check in judge(replace(good, **change))) >= 1
