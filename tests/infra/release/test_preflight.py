"""What is refused before anything is changed, where that needs more than AWS."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.programs import require_program
from infra.release.errors import ReleaseError
from infra.release.rollout.preflight import (
    Image,
    alarm_states,
    check_clock,
    check_signature,
    parse_image,
)
from infra.release.settings import Preflight
from infra.supply_chain.signature import bill_digest, generate_keys, sign
from tests.infra.supply_chain.made import BILL, MODEL, made
from tests.infra.supply_chain.pushing import push
from tests.tools.image.registry import registry


def test_a_signed_image_says_which_model_it_must_serve(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    require_program("cosign")
    private, public = generate_keys(tmp_path)
    with registry(tmp_path_factory.mktemp("registry")) as server:
        uri = push(server.address, tmp_path, "content")
        image = Image(uri, "kiln", uri.rpartition("@")[2])
        settings = Preflight(signing_key=str(public))
        unsigned, model = check_signature(settings, image)
        assert (unsigned.passed, unsigned.blocks, model) == (False, True, None)
        sign(uri, str(private), made(bill_digest(BILL)), BILL, insecure=True)
        signed, model = check_signature(settings, image)
        assert signed.passed, signed.detail
        assert model == MODEL.version
        foreign, _ = check_signature(Preflight(signing_key=str(public), builder="https://x"), image)
        assert not foreign.passed
        assert "only https://x" in foreign.detail


@pytest.mark.parametrize("ahead_s", [-600, -11, -9, 0, 9, 11, 600])
def test_a_clock_that_is_not_that_of_aws_is_refused(ahead_s: float) -> None:
    """One ten minutes fast would look for lines of the log that nobody has written yet."""
    check = check_clock("Sun, 29 Nov 2026 17:00:00 GMT", 1_795_971_600.0 + ahead_s)
    assert check.passed == (abs(ahead_s) < 10)
    assert (f"{abs(ahead_s)} s" in check.detail) == (check.blocks is True)


def test_a_clock_that_nobody_knows_blocks_nothing() -> None:
    check = check_clock("", 1_795_971_600.0)
    assert (check.passed, check.blocks) == (False, False)


class CloudWatch:
    """Describes alarms as AWS does: 100 names in a call, and composite ones only if asked for."""

    def get_paginator(self, _: str) -> CloudWatch:
        return self

    def paginate(
        self, AlarmNames: list[str], AlarmTypes: tuple[str, ...] = ("MetricAlarm",)
    ) -> list[dict[str, Any]]:
        assert len(AlarmNames) <= 100
        kinds = {"MetricAlarm": "slow", "CompositeAlarm": "burn"}
        return [
            {
                f"{kind}s": [
                    {"AlarmName": name, "StateValue": "ALARM"}
                    for name in AlarmNames
                    if name.startswith(kinds[kind])
                ]
            }
            for kind in AlarmTypes
        ]


def test_composite_alarms_are_asked_for_and_any_number() -> None:
    names = [f"{kind}-{n}" for kind in ("slow", "burn") for n in range(120)]
    aws: Any = SimpleNamespace(cloudwatch=CloudWatch())
    assert alarm_states(aws, names) == dict.fromkeys(names, "ALARM")
    assert alarm_states(aws, []) == {}


DIGEST = f"sha256:{'0' * 64}"


def test_an_image_is_named_by_digest_alone_or_with_its_repository() -> None:
    assert parse_image(f"host/team/kiln:v1@{DIGEST}").repository == "team/kiln"
    assert parse_image(DIGEST, "host/kiln") == Image(f"host/kiln@{DIGEST}", "kiln", DIGEST)


@pytest.mark.parametrize("text", ["kiln", "host/kiln:v1", "host/kiln@sha256:12", DIGEST])
def test_a_tag_is_no_name_of_an_image(text: str) -> None:
    with pytest.raises(ReleaseError):
        parse_image(text)
