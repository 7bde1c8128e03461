"""Others learn of a release: a collector its metrics, people how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.observability.catalogue import load
from infra.release.aws.clients import Aws
from infra.release.rollout.context import Notices, _provider, message
from tests.helpers.waiting import wait_until
from tests.infra.release.made import decision
from tests.infra.release.world import World
from tests.serve.telemetry.collector import Chain, collector


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chain]:
    _provider.cache_clear()
    with collector(tmp_path) as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        yield found
    _provider.cache_clear()


def test_a_collector_gets_what_cloudwatch_gets(world: World, chain: Chain) -> None:
    warnings: list[str] = []
    notices = Notices(Aws(), "kiln", "", warnings.append)
    notices.measure(2, 0.25, "hold", {"1": 0.93, "2": 0.92})
    assert world.metric("kiln.release.step") == 2
    assert world.metric("kiln.golden.accuracy", {"faas.version": "2"}) == 0.92
    # By the names that rules and dashboards ask for.
    step, weight, verdict, accuracy = (
        load()[name].prometheus
        for name in (
            "kiln.release.step",
            "kiln.release.candidate_weight",
            "kiln.release.verdict",
            "kiln.golden.accuracy",
        )
    )
    wait_until(lambda: chain.value(step) == 2)
    wait_until(lambda: chain.value(weight) == 0.25)
    wait_until(lambda: chain.value(f'{accuracy}{{faas_version="1"}}') == 0.93)
    notices.measure(2, 0.25, "roll back")
    wait_until(lambda: chain.value(verdict) == -1)
    assert warnings == []


def test_what_cannot_be_told_is_said_and_stops_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    topic = "arn:aws:sns:eu-central-1:123456789012:missing"
    Notices(Aws(), "kiln", topic, warnings.append).tell("dev", decision("promoted"))
    assert len(warnings) == 1


@given(st.text(max_size=300), st.sampled_from(["promoted", "rolled back", "failed", "stop"]))
def test_subjects_are_what_sns_takes(text: str, kind: str) -> None:
    subject, body = message("prod", "kiln-prod", replace(decision(kind), why=text, who=text))
    assert len(subject) <= 100
    assert subject.isascii()
    assert "bazel run //infra:status -- --env prod" in body
