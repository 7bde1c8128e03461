"""infra/terraform/roots: the real Terraform and provider, against AWS on loopback."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from infra.supply_chain.signature import Cosign, bill_digest, sign
from infra.terraform.root import ROOTS
from infra.terraform.service import parse_service_outputs
from tests.infra.supply_chain.made import BILL, made
from tests.infra.terraform.aws import ACCOUNT, REGION
from tests.infra.terraform.history import STATE_BUCKET, History


@pytest.mark.parametrize("root", ROOTS)
def test_what_was_applied_is_planned_as_no_change(history: History, root: str) -> None:
    passed = history.roots[root]
    assert set(passed.plans["first"].counts) == {"create"}
    assert not passed.plans["second"].changed, passed.plans["second"].changes


@pytest.mark.parametrize("root", ["registry", "service", "observability"])
def test_destroy_deletes_all_that_was_created(history: History, root: str) -> None:
    passed = history.roots[root]
    assert passed.plans["destroyed"].counts == {"delete": passed.plans["first"].counts["create"]}


def test_nothing_is_left_after_the_end(history: History) -> None:
    assert history.left == []


def test_the_bucket_of_the_states_is_not_deleted_with_a_state_in_it(history: History) -> None:
    assert "BucketNotEmpty" in history.refusal
    assert history.roots["state"].outputs["bucket"] == STATE_BUCKET


def test_the_key_of_the_states_turns_and_encrypts_them(history: History) -> None:
    root = history.roots["state"].state["values"]["root_module"]
    found = {
        one["type"]: one["values"]
        for module in root["child_modules"]
        for one in module["resources"]
    }
    key = history.roots["state"].outputs["kms_key_arn"]
    assert found["aws_kms_key"]["enable_key_rotation"]
    assert found["aws_kms_key"]["arn"] == key
    (rule,) = found["aws_s3_bucket_server_side_encryption_configuration"]["rule"]
    (by,) = rule["apply_server_side_encryption_by_default"]
    assert (by["sse_algorithm"], by["kms_master_key_id"]) == ("aws:kms", key)


def test_a_new_image_is_a_new_version_and_nobody_meets_it(history: History) -> None:
    assert history.roots["service"].plans["changed"].counts == {"update": 1}
    assert history.versions == ["$LATEST", "1", "2"]
    assert [history.aliases[step]["FunctionVersion"] for step in ("applied", "changed")] == [
        "1",
        "1",
    ]


def test_the_weights_of_a_canary_are_no_drift(history: History) -> None:
    assert not history.roots["service"].plans["canary"].changed


def test_observability_switched_off_is_nothing_at_all(history: History) -> None:
    passed = history.roots["observability"]
    assert passed.plans["off"].counts == {"delete": passed.plans["first"].counts["create"]}


def test_the_service_says_where_everything_is(history: History) -> None:
    outputs = parse_service_outputs(history.roots["service"].outputs)
    assert (outputs.function_name, outputs.alias_name) == ("kiln-dev", "live")
    assert outputs.api_url.startswith("https://")
    assert not outputs.api_url.endswith("/")
    assert outputs.function_url.startswith("https://")
    assert (outputs.ledger_bucket, outputs.ledger_prefix) == (
        f"kiln-{ACCOUNT}-{REGION}-ledger",
        "dev",
    )
    assert outputs.ledger_bucket == history.roots["registry"].outputs["ledger_bucket"]
    assert outputs.region == REGION
    assert all(name.startswith("kiln-dev-") for name in outputs.alarm_names)
    assert {"kiln-dev-function-errors", "kiln-dev-error-share"} <= set(outputs.alarm_names)
    pages = history.roots["service"].outputs["page_alarm_names"]
    assert set(pages) < set(outputs.alarm_names)


def test_alarms_go_to_people_and_to_slack(history: History) -> None:
    assert history.topics == ["email", "lambda"]


def test_what_is_signed_pushes_no_image_out_of_the_registry(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ECR counts signatures and statements as images."""
    stored: list[object] = []

    def run(self: Cosign, command: Sequence[str]) -> str:
        stored.append(command)
        return ""

    monkeypatch.setattr(Cosign, "_run", run)
    digest = f"sha256:{'0' * 64}"
    sign(f"registry.invalid/kiln@{digest}", "key", made(bill_digest(BILL)), BILL)
    pushed = [number for number in range(250) for _ in range(1 + len(stored))]  # the oldest first
    [document] = [
        resource["values"]["policy"]
        for resource in history.roots["registry"].state["values"]["root_module"]["resources"]
        if resource["type"] == "aws_ecr_lifecycle_policy"
    ]
    [rule] = json.loads(document)["rules"]
    assert rule["selection"]["countType"] == "imageCountMoreThan"
    kept = pushed[-rule["selection"]["countNumber"] :]
    assert [kept.count(number) for number in range(50, 250)] == [1 + len(stored)] * 200


def test_the_watcher_knows_what_the_release_manager_reads(history: History) -> None:
    outputs = history.roots["service"].outputs
    assert history.watched == ("dev", parse_service_outputs(outputs), ["rate(1 minute)"])
