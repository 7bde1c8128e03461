"""Which actions of AWS a program really calls, in the words of IAM.

Recorded where the calls arrive, in moto's server, so that those of Terraform's provider are seen;
and where boto3 makes them, for invocations do not reach moto. Callers are told apart by their
access keys, of which moto takes any.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import boto3
from botocore import handlers
from moto.core.authorization import ActionAuthenticatorMixin

_CREDENTIAL = re.compile(r"Credential=([^/]+)/")

# Services whose name in moto is not their prefix in IAM.
_PREFIXES = {"amp": "aps", "awslambda": "lambda"}
_BOTO3 = {"lambda": "awslambda"}  # and the other way round, so that a call is noted once

# Operations that IAM calls otherwise; the same name where none is given.
_NAMES = {
    ("awslambda", "Invoke"): "lambda:InvokeFunction",
    ("s3", "GetBucketCORS"): "s3:GetBucketCORS",
    ("s3", "HeadBucket"): "s3:ListBucket",
    ("s3", "HeadObject"): "s3:GetObject",
    ("s3", "ListObjectsV2"): "s3:ListBucket",
}

# Parts of a bucket by the query that names them, of which moto only sees the bucket.
_OF_BUCKETS = {
    "encryption": "EncryptionConfiguration",
    "object-lock": "BucketObjectLockConfiguration",
    "ownershipControls": "BucketOwnershipControls",
    "publicAccessBlock": "BucketPublicAccessBlock",
    "replication": "ReplicationConfiguration",
    "requestPayment": "BucketRequestPayment",
}

# IAM knows API Gateway's operations by their HTTP method alone.
_METHODS = {"Create": "POST", "Delete": "DELETE", "Get": "GET", "Update": "PATCH", "Tag": "POST"}

# What AWS asks for besides, which no call of its own shows: tags that come with a creation, a role
# that is passed on, an image that Lambda fetches in the caller's name.
_IMPLIED = {
    ("apigatewayv2", "CreateStage"): {
        "logs:CreateLogDelivery",
        "logs:DeleteLogDelivery",
        "logs:DescribeResourcePolicies",
        "logs:GetLogDelivery",
        "logs:ListLogDeliveries",
        "logs:PutResourcePolicy",
        "logs:UpdateLogDelivery",
    },
    ("awslambda", "CreateFunction"): {
        "ecr:BatchGetImage",
        "ecr:GetDownloadUrlForLayer",
        "iam:PassRole",
        "lambda:TagResource",
    },
    ("cloudwatch", "PutMetricAlarm"): {"cloudwatch:TagResource"},
    ("events", "PutRule"): {"events:TagResource"},
    ("iam", "CreatePolicy"): {"iam:TagPolicy"},
    ("iam", "CreateRole"): {"iam:TagRole"},
    ("logs", "CreateLogGroup"): {"logs:TagResource"},
    ("sns", "CreateTopic"): {"sns:TagResource"},
    ("sqs", "CreateQueue"): {"sqs:TagQueue"},
}


class Recorder:
    """Calls, by who made them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[str, set[tuple[str, str, str]]] = {}

    def note(self, caller: str, service: str, operation: str, resource: str = "") -> None:
        with self._lock:
            self._calls.setdefault(caller, set()).add((service, operation, resource))

    def needed(self, caller: str) -> set[tuple[str, str]]:
        """The IAM actions that a caller needed, with the ARN of what they were on; "" where the
        call does not name it, as for what AWS asks for besides."""
        with self._lock:
            calls = set(self._calls.get(caller, ()))
        return {
            (action, resource if action == named(service, operation) else "")
            for service, operation, resource in calls
            for action in iam_actions(service, operation)
        }

    def actions(self, caller: str) -> set[str]:
        """The IAM actions that a caller needed."""
        return {action for action, _ in self.needed(caller)}


@contextmanager
def recording() -> Iterator[Recorder]:
    """Everything that moto's server in this process is asked, and boto3 in this process asks."""
    recorder = Recorder()

    def note(self: Any, iam_request: type, resource: str = "*") -> None:
        found = _CREDENTIAL.search(self.headers.get("Authorization", ""))
        operation = _part_of_bucket(self) or str(self._get_action())
        arn = resource if resource != "*" else _resource(self)
        recorder.note(found.group(1) if found else "", str(self.service_name), operation, arn)

    def note_boto3(model: Any, request_signer: Any, **_: Any) -> None:
        service = model.service_model.service_name
        key = getattr(request_signer._credentials, "access_key", "")  # some calls are not signed
        recorder.note(key, _BOTO3.get(service, service), model.name)

    hooks = [*handlers.BUILTIN_HANDLERS, ("before-call", note_boto3)]
    with (
        patch.object(ActionAuthenticatorMixin, "_authenticate_and_authorize_action", note),
        patch.object(handlers, "BUILTIN_HANDLERS", hooks),  # of every session from now on
        patch.object(boto3, "DEFAULT_SESSION", None),
    ):
        yield recorder


def _resource(response: Any) -> str:
    """ARN of what a request is on, where its path or its parameters name it; S3's moto tells."""
    service, partition = str(response.service_name), "arn:aws"
    here = f"{response.region}:{response.current_account}"
    if service == "awslambda" and (found := re.search(r"/functions/([\w-]+)", response.path)):
        return f"{partition}:lambda:{here}:function:{found.group(1)}"
    given = {name: values[0] for name, values in response.querystring.items() if values}
    if str(response.headers.get("Content-Type", "")).startswith("application/x-amz-json"):
        given |= json.loads(response.body or "{}")
    for name, start in _NAMED_BY.get(service, {}).items():
        if isinstance(value := given.get(name), str):
            return f"{partition}:{service}:{start.format(here=here)}{value}" if start else value
    return ""


# Parameters that name what a call is on, and what comes before the name in its ARN.
_NAMED_BY = {
    "ecr": {"repositoryName": "{here}:repository/"},
    "events": {"Name": "{here}:rule/", "Rule": "{here}:rule/"},
    "logs": {"logGroupName": "{here}:log-group:"},
    "sns": {"TopicArn": ""},
    "sqs": {"QueueName": "{here}:"},
}


def _part_of_bucket(response: Any) -> str:
    """The operation on a part of a bucket that moto has no name for; "" of all others."""
    if response.service_name == "s3":
        for query, part in _OF_BUCKETS.items():
            if query in response.querystring:
                return ("Get" if response.method == "GET" else "Put") + part
    return ""


def named(service: str, operation: str) -> str:
    """The action of IAM that a call is."""
    if service == "apigatewayv2":
        verb = re.match(r"[A-Z][a-z]+", operation)
        assert verb
        return f"apigateway:{_METHODS[verb.group()]}"
    prefix = _PREFIXES.get(service, service)
    return _NAMES.get((service, operation), f"{prefix}:{operation}")


def iam_actions(service: str, operation: str) -> set[str]:
    """What a policy must allow for one call."""
    return {named(service, operation)} | _IMPLIED.get((service, operation), set())
