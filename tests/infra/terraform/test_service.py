"""infra/terraform/roots/service: applied to AWS on loopback, changed and destroyed."""

from __future__ import annotations

from typing import Any

import pytest

from infra.terraform.errors import TerraformFailed
from infra.terraform.service import ServiceOutputs, parse_service_outputs
from tests.infra.terraform.aws import ACCOUNT, REGION, WITHOUT, Aws


def applied(aws: Aws, image: str, **variables: object) -> ServiceOutputs:
    root = aws.root("service", "dev", {"image_uri": image, **WITHOUT, **variables})
    plan = root.plan()
    if plan.changed:
        root.apply(plan)
    return parse_service_outputs(root.outputs())


def alias_version(aws: Aws, outputs: ServiceOutputs) -> str:
    answer = aws.client("lambda").get_alias(
        FunctionName=outputs.function_name, Name=outputs.alias_name
    )
    return str(answer["FunctionVersion"])


def test_the_service_is_made_changed_and_destroyed(aws: Aws) -> None:
    """One story, because every apply takes long: each step goes on where the one before ended."""
    aws.client("ecr").create_repository(repositoryName="kiln")
    first, second = (aws.push_image("kiln", label) for label in ("first", "second"))
    fast = {"failure_queue": False}

    outputs = applied(aws, first, **fast)
    assert outputs.function_name == "kiln-dev"
    assert outputs.alias_name == "live"
    assert outputs.ledger_bucket == f"kiln-{ACCOUNT}-{REGION}-ledger"
    assert outputs.region == REGION
    assert outputs.api_url.startswith("https://")
    assert "kiln-dev-function-errors" in outputs.alarm_names
    assert "kiln-dev-error-share" in outputs.alarm_names
    assert alias_version(aws, outputs) == "1"

    unchanged = aws.root("service", "dev", {"image_uri": first, **WITHOUT, **fast}).plan()
    assert not unchanged.changed, unchanged.changes

    applied(aws, second, **fast)
    versions = aws.client("lambda").list_versions_by_function(FunctionName="kiln-dev")["Versions"]
    assert [version["Version"] for version in versions] == ["$LATEST", "1", "2"]
    assert alias_version(aws, outputs) == "1", "the alias belongs to the release manager"

    aws.client("lambda").update_alias(
        FunctionName="kiln-dev",
        Name="live",
        FunctionVersion="1",
        RoutingConfig={"AdditionalVersionWeights": {"2": 0.1}},
    )
    shifted = aws.root("service", "dev", {"image_uri": second, **WITHOUT, **fast}).plan()
    assert not shifted.changed, "a canary is no drift"

    destroyed = aws.root("service", "dev", {"image_uri": second, **WITHOUT, **fast}).destroy()
    assert set(destroyed.counts) == {"delete"}
    assert aws.client("lambda").list_functions()["Functions"] == []
    assert remaining_alarms(aws) == []


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"image_uri": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/kiln:latest"}, "a tag can be"),
        ({"timeout_s": 60}, "API Gateway gives up before 30 s"),
        ({"function_environment": {"PATH": "/"}}, "begin with KILN_ or OTEL_"),
        ({"slack_webhook_parameter": "https://hooks.slack.com/…"}, "not the webhook itself"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_expected(
    aws: Aws, variables: dict[str, object], words: str
) -> None:
    right = {"image_uri": f"example.org/kiln@sha256:{'0' * 64}"}
    with pytest.raises(TerraformFailed, match=words):
        aws.root("service", "staging", {**right, **variables}).plan()


def remaining_alarms(aws: Aws) -> list[Any]:
    answer = aws.client("cloudwatch").describe_alarms()
    return [*answer["MetricAlarms"], *answer["CompositeAlarms"]]
