"""Every root applied, planned again, changed and destroyed, once for all tests: AWS's own waits are
long (a lifecycle rule 55 s, a queue 25 s), so a thread for each root goes through it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from infra.terraform.program import Plan, TerraformFailed
from infra.terraform.root import Root
from infra.terraform.service import parse_service_outputs
from infra.terraform.state import S3State
from tests.helpers.waiting import wait_until
from tests.infra.terraform.aws import ACCOUNT, REGION, WITHOUT, Aws

STATE_BUCKET = f"kiln-{ACCOUNT}-{REGION}-state"
_HTTP = {"tls_only": False}  # the server on loopback has no TLS
_WITH_KEY = {**_HTTP, "create_key": True}
SERVICE = {
    **WITHOUT,
    **_HTTP,
    "capture": True,
    "alarm_emails": ["team@example.org"],
    "function_url_callers": ["arn:aws:iam::210987654321:role/caller"],
    "jwt": {"issuer": "https://login.example.org", "audience": ["kiln"]},
    "slack_webhook_parameter": "/kiln/slack-webhook",
}


@dataclass
class Passed:
    """What became of one root."""

    plans: dict[str, Plan] = field(default_factory=dict)  # step => plan
    outputs: dict[str, Any] = field(default_factory=dict)
    state: Any = None  # as `terraform show -json` says it after the first apply


@dataclass
class History:
    """What became of all of them, and what AWS said meanwhile."""

    roots: dict[str, Passed] = field(default_factory=dict)
    aliases: dict[str, Any] = field(default_factory=dict)  # step => the alias live
    versions: list[str] = field(default_factory=list)
    topics: list[str] = field(default_factory=list)  # protocols of the subscriptions
    watched: Any = None  # the watcher's environment, what it knows of the service, its schedules
    left: list[str] = field(default_factory=list)  # functions and alarms after the end
    called: set[str] = field(default_factory=set)  # actions of IAM, by Terraform for the service
    refusal: str = ""  # of the state's bucket to be deleted with states in it


def live_through(aws: Aws) -> History:
    """Does it all."""
    history = History({name: Passed() for name in aws.names})
    with ThreadPoolExecutor(4) as threads:
        shared = [threads.submit(work, aws, history) for work in (_state, _registry)]
        wait_until(lambda: _is_there(aws) or any(work.done() for work in shared), patience_s=600)
        for work in filter(Future.done, shared):
            work.result()  # raises what kept it from being there
        running = [threads.submit(work, aws, history) for work in (_observability, _service)]
        _github(aws, history)
        for work in (*shared, *running):
            work.result()
    _end(aws, history)
    history.called = aws.recorder.actions("service")
    return history


def _is_there(aws: Aws) -> bool:
    """Whether the others can begin: what is left of the first two is waits for lifecycle rules."""
    buckets = {one["Name"] for one in aws.client("s3").list_buckets()["Buckets"]}
    repositories = aws.client("ecr").describe_repositories()["repositories"]
    return {STATE_BUCKET, f"kiln-{ACCOUNT}-{REGION}-ledger"} <= buckets and bool(repositories)


def _state(aws: Aws, history: History) -> None:
    _first(aws.root("state", "account", _WITH_KEY), history.roots["state"])


def _registry(aws: Aws, history: History) -> None:
    root = aws.root("registry", "account", {**_HTTP, "force_destroy": True})
    _first(root, history.roots["registry"])


def _github(aws: Aws, history: History) -> None:
    given = {"repository": "owner/name", "create_signing_key": True}
    root = aws.root("github", "account", given, S3State(STATE_BUCKET))
    _first(root, history.roots["github"])


def _observability(aws: Aws, history: History) -> None:
    ec2 = aws.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    where = {"vpc_id": vpc, "subnet_ids": [subnet], "client_cidrs": ["10.0.0.0/16"]}
    root = aws.root("observability", "dev", {"enabled": True, **where})
    passed = history.roots["observability"]
    _first(root, passed)
    passed.plans["off"] = aws.root("observability", "dev").plan()
    passed.plans["destroyed"] = root.destroy()


def _service(aws: Aws, history: History) -> None:
    passed = history.roots["service"]
    first, second, watcher = (aws.push_image("kiln", label) for label in ("1", "2", "watch"))
    _first(_service_root(aws, first, watcher), passed)
    history.aliases["applied"] = _alias(aws)
    topic = passed.outputs["sns_topic_arn"]
    subscriptions = aws.client("sns").list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    history.topics = sorted(one["Protocol"] for one in subscriptions)

    history.watched = _watched(aws)
    kept = {"TF_VAR_watcher_image_uri": passed.outputs["watcher_image_uri"]}
    changed = _service_root(aws, second, environ=kept)  # as `kept_variables` has it
    passed.plans["changed"] = changed.plan()
    changed.apply(passed.plans["changed"])
    history.aliases["changed"] = _alias(aws)
    listed = aws.client("lambda").list_versions_by_function(FunctionName="kiln-dev")
    history.versions = [version["Version"] for version in listed["Versions"]]

    weights = {"AdditionalVersionWeights": {"2": 0.1}}
    aws.client("lambda").update_alias(
        FunctionName="kiln-dev", Name="live", FunctionVersion="1", RoutingConfig=weights
    )
    passed.plans["canary"] = changed.plan()
    passed.plans["destroyed"] = changed.destroy()


def _watched(aws: Aws) -> Any:
    found = aws.client("lambda").get_function_configuration(FunctionName="kiln-dev-watch")
    rules = aws.client("events").list_rule_names_by_target(TargetArn=found["FunctionArn"])
    events = [aws.client("events").describe_rule(Name=name) for name in rules["RuleNames"]]
    variables = found["Environment"]["Variables"]
    outputs = parse_service_outputs(json.loads(variables["KILN_SERVICE_OUTPUTS"]))
    return variables["KILN_ENV"], outputs, [event["ScheduleExpression"] for event in events]


def _service_root(
    aws: Aws, image: str, watcher: str = "", environ: Mapping[str, str] | None = None
) -> Root:
    named = {"watcher_image_uri": watcher} if watcher else {}
    variables: Mapping[str, object] = {**SERVICE, "image_uri": image, **named}
    return aws.root("service", "dev", variables, S3State(STATE_BUCKET), environ)


def _end(aws: Aws, history: History) -> None:
    functions = aws.client("lambda").list_functions()["Functions"]
    alarms = aws.client("cloudwatch").describe_alarms()
    history.left = [one["FunctionName"] for one in functions]
    history.left += [one["AlarmName"] for one in alarms["MetricAlarms"]]
    root = aws.root("registry", "account", {**_HTTP, "force_destroy": True})
    history.roots["registry"].plans["destroyed"] = root.destroy()
    try:
        aws.root("state", "account", _WITH_KEY).destroy()
    except TerraformFailed as exc:
        history.refusal = str(exc)


def _first(root: Root, passed: Passed) -> None:
    passed.plans["first"] = root.plan()
    root.apply(passed.plans["first"])
    passed.plans["second"] = root.plan()
    passed.outputs = root.outputs()
    passed.state = root.show()


def _alias(aws: Aws) -> Any:
    return aws.client("lambda").get_alias(FunctionName="kiln-dev", Name="live")
