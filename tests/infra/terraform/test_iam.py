"""IAM: policies allow what the code really calls, and nothing else."""

from __future__ import annotations

import pytest

from infra.terraform.root import ROOTS
from tests.infra.terraform.history import History
from tests.infra.terraform.policies import allowed, documents, is_allowed, statements

# Allowed to Terraform, though this life of a service did not call it, and why it is needed.
NOT_SEEN = {
    **dict.fromkeys(
        ("apigateway:PATCH", "apigateway:PUT"), "a change of the API; moto cannot change a stage"
    ),
    **dict.fromkeys(
        (
            "budgets:ListTagsForResource",
            "budgets:ModifyBudget",
            "budgets:TagResource",
            "budgets:UntagResource",
            "budgets:ViewBudget",
        ),
        "the budget, which moto cannot read back",
    ),
    **dict.fromkeys(
        ("ec2:DescribeSecurityGroups", "ec2:DescribeSubnets", "ec2:DescribeVpcs"),
        "a function in a VPC: Lambda's own calls in the name of who creates it",
    ),
    "cloudwatch:PutCompositeAlarm": "error budgets, which moto cannot watch",
    **dict.fromkeys(
        (
            "cloudwatch:UntagResource",
            "events:UntagResource",
            "iam:UntagPolicy",
            "iam:UntagRole",
            "lambda:UntagResource",
            "logs:UntagResource",
            "sns:UntagResource",
            "sqs:UntagQueue",
        ),
        "a tag that is taken away",
    ),
    **dict.fromkeys(
        (
            "iam:CreatePolicyVersion",
            "iam:DeletePolicyVersion",
            "iam:UpdateAssumeRolePolicy",
            "iam:UpdateRole",
            "iam:UpdateRoleDescription",  # the provider calls the old one
            "lambda:DeleteFunctionConcurrency",
            "lambda:UpdateAlias",
            "lambda:UpdateFunctionConfiguration",
            "lambda:UpdateFunctionUrlConfig",
            "logs:AssociateKmsKey",
            "logs:DeleteRetentionPolicy",
            "logs:DisassociateKmsKey",
            "sns:SetSubscriptionAttributes",
            "sqs:SetQueueAttributes",
        ),
        "a change of a setting; this life changed the image alone",
    ),
    **dict.fromkeys(
        ("s3:DeleteBucketPolicy", "s3:PutBucketPolicy"),
        "the bucket's refusal of requests without TLS, which the server on loopback has none of",
    ),
    "sqs:GetQueueUrl": "the provider's waiters ask it where AWS is slower than moto",
}
FREE = {"sts:GetCallerIdentity"}  # AWS allows it to everybody


@pytest.fixture(scope="module")
def policies(history: History) -> dict[str, str]:
    """Every policy of every root: address to JSON."""
    return {
        f"{root}: {address}": document
        for root in ROOTS
        for address, document in documents(history.roots[root].state)
    }


def role(policies: dict[str, str], name: str) -> str:
    return policies[f'github: aws_iam_policy.this["{name}"].policy']


def terraforms(policies: dict[str, str]) -> set[str]:
    """What the two documents for Terraform allow."""
    documents = [role(policies, f"staging/terraform{part}") for part in ("", "_operations")]
    return set().union(*map(allowed, documents))


def test_terraform_may_call_what_it_calls(history: History, policies: dict[str, str]) -> None:
    assert len(history.called) > 50, "the recorder saw next to nothing"
    assert history.called - FREE - terraforms(policies) == set()


def test_terraform_may_call_nothing_that_it_does_not(
    history: History, policies: dict[str, str]
) -> None:
    may = terraforms(policies)
    assert may - history.called - set(NOT_SEEN) == set()
    assert set(NOT_SEEN) & history.called == set(), "seen after all: no reason is needed"


def test_who_reads_alarms_reads_composite_ones_as_well(policies: dict[str, str]) -> None:
    """CloudWatch leaves them out for whoever may describe a part of the alarms alone."""
    readers = {
        address: one["Resource"]
        for address, document in policies.items()
        for one in statements(document)
        if "cloudwatch:DescribeAlarms" in one["Action"]
    }
    assert len(readers) > 3
    assert {tuple(resources) for resources in readers.values()} == {("*",)}


def test_a_release_may_read_the_labels_of_captured_answers(policies: dict[str, str]) -> None:
    captures = "arn:aws:s3:::kiln-123456789012-eu-central-1-captures-staging"
    release = role(policies, "staging/release")
    assert is_allowed([release], "s3:ListBucket", captures)
    for folder in ("captures", "labels"):
        assert is_allowed([release], "s3:GetObject", f"{captures}/{folder}/2026/1.parquet")
        assert not is_allowed([release], "s3:PutObject", f"{captures}/{folder}/2026/1.parquet")


def test_the_log_service_may_use_the_key_as_it_asks_for(policies: dict[str, str]) -> None:
    """It refuses a key without these: what CloudWatch Logs' page on encryption lists."""
    key = next(text for name, text in policies.items() if "aws_kms_key.this" in name)
    logs = next(one for one in statements(key) if "logs." in str(one.get("Principal")))
    asked = {"Decrypt", "DescribeKey", "Encrypt", "GenerateDataKey", "ReEncryptFrom", "ReEncryptTo"}
    asked.add("GenerateDataKeyWithoutPlaintext")
    assert {f"kms:{name}" for name in asked} <= set(logs["Action"])


def test_no_policy_allows_a_wildcard_action(policies: dict[str, str]) -> None:
    assert len(policies) > 20
    wild = {
        (address, action)
        for address, document in policies.items()
        for action in allowed(document)
        if "*" in action
    }
    assert wild == set()


def test_nobody_is_let_in_by_a_wildcard_but_to_be_refused(policies: dict[str, str]) -> None:
    for address, document in policies.items():
        for statement in statements(document):
            if statement["Effect"] == "Allow":
                assert "*" not in str(statement.get("Principal", "")), address


def test_a_branch_a_fork_and_a_pull_request_get_no_role(policies: dict[str, str]) -> None:
    trusts = {name: text for name, text in policies.items() if name.endswith("assume_role_policy")}
    subjects = {
        statement["Condition"]["StringEquals"]["token.actions.githubusercontent.com:sub"]
        for name, text in trusts.items()
        if name.startswith("github:")
        for statement in statements(text)
    }
    assert subjects == {
        "repo:owner/name:environment:build",
        "repo:owner/name:environment:production",
        "repo:owner/name:environment:production-read",
        "repo:owner/name:environment:staging",
        "repo:owner/name:environment:training",
    }
