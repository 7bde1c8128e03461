"""What the twin counts, and what it calls kept and broken."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from infra.twin.cloud.data_plane import Seen
from infra.twin.cloud.targets import Target
from infra.twin.deployment import Deployment
from infra.twin.findings import Alert, Finding, Release, Routing, Traffic, draw, find, measure
from infra.twin.load import TimedResponse

BEGAN = 1000.0


def target(version: str, qualifier: str | None = "live") -> Target:
    return Target("eu-central-1", "kiln", version, qualifier, "sha256:0", 15, 1769, {}, None, 0)


def seen(version: str, at_s: float, error: str | None = None) -> Seen:
    return Seen(BEGAN + at_s, target(version), 10.0, None, error)


def release(good: bool = False, fails: float = 0.0, code: int = 20, **more: Any) -> Release:
    deployment = Deployment(BEGAN, BEGAN + 60, code, {"text": "done"})
    values: dict[str, Any] = {"name": "bad", "version": "2", "stable": "1", **more}
    return Release(good=good, fails=fails, deployment=deployment, **values)


@pytest.fixture
def traffic() -> Traffic:
    """A candidate from second 10 on, back after 12 seconds, with two crashes."""
    found = Traffic()
    for second in range(60):
        found.calls.append(seen("1", second))
        found.responses.append(TimedResponse(BEGAN + second, 200, 12.0, "a"))
    for second in range(10, 22):
        crash = "Runtime.ExitError" if second in (12, 15) else None
        found.calls.append(seen("2", second + 0.01, crash))
        found.responses.append(TimedResponse(BEGAN + second, 500 if crash else 200, 12.0, "b"))
    found.routings += [
        Routing(BEGAN - 5, {"1": 1.0}),
        Routing(BEGAN + 9.5, {"1": 0.8, "2": 0.2}),
        Routing(BEGAN + 22, {"1": 1.0}),
    ]
    found.alerts.append(Alert(BEGAN + 23, "[dev] back on version 1", ""))
    return found


def broken(findings: list[Finding]) -> list[str]:
    return [finding.promise for finding in findings if not finding.kept]


def test_it_measures_from_the_first_candidate_request(traffic: Traffic) -> None:
    numbers = measure(release(), traffic)
    assert (numbers.requests, numbers.failed, numbers.statuses) == (72, 2, {500: 2})
    assert (numbers.candidate_calls, numbers.candidate_failed) == (12, 2)
    assert numbers.candidate_errors == {"Runtime.ExitError": 2}
    assert numbers.rollback_s == pytest.approx(12)
    assert numbers.alert_s == pytest.approx(13)


def test_a_bad_release_that_is_rolled_back_in_time_keeps_its_promises(traffic: Traffic) -> None:
    assert broken(find([release(fails=0.1)], traffic, {"1": 1})) == []


def test_failures_of_a_release_that_fails_nothing_are_broken_promises(traffic: Traffic) -> None:
    assert broken(find([release()], traffic, {"1": 1})) == ["bad: no request fails"]


def test_more_failures_than_crashes_are_a_broken_promise(traffic: Traffic) -> None:
    traffic.responses.append(TimedResponse(BEGAN + 30, 503, 5.0, ""))
    assert broken(find([release(fails=0.1)], traffic, {"1": 1})) == [
        "bad: only its own requests fail"
    ]


def test_a_late_rollback_is_a_broken_promise(traffic: Traffic) -> None:
    traffic.routings[-1] = Routing(BEGAN + 75, {"1": 1.0})
    assert broken(find([release(fails=0.1)], traffic, {"1": 1})) == [
        "bad: rolled back within 60 s of its first request"
    ]


def test_a_bad_release_that_is_promoted_breaks_every_promise(traffic: Traffic) -> None:
    del traffic.routings[-1]
    traffic.alerts.clear()
    found = broken(find([release(code=0, fails=0.1)], traffic, {"2": 1}))
    assert found == [
        "bad: is rolled back",
        "bad: rolled back within 60 s of its first request",
        "bad: an alert is sent",
        "at the end all traffic goes to the last good version",
    ]


def test_a_good_release_that_is_rolled_back_is_a_broken_promise(traffic: Traffic) -> None:
    found = broken(find([release(good=True, fails=0.1)], traffic, {"1": 1}))
    assert found == ["bad: is promoted", "at the end all traffic goes to the last good version"]


def test_calls_of_a_version_itself_are_no_traffic() -> None:
    found = Traffic()
    for qualifier in ("2", "live"):
        found.saw(Seen(BEGAN, target("2", qualifier), 1.0, None, None))
    assert [call.target.qualifier for call in found.calls] == ["live"]


def test_the_figure_is_a_png(traffic: Traffic, tmp_path: Any) -> None:
    place = tmp_path / "twin.png"
    place.write_bytes(draw(traffic, [release(fails=0.1)]))
    with Image.open(place) as image:
        assert image.width > 1000
