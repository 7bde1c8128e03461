"""IAM: policies allow what the code really calls, and nothing else."""

from __future__ import annotations

import pytest

from infra.terraform.root import ROOTS
from tests.infra.terraform.history import History
from tests.infra.terraform.policies import allowed, documents, statements

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
            "lambda:DeleteFunctionConcurrency",
            "lambda:UpdateAlias",
            "lambda:UpdateFunctionConfiguration",
            "lambda:UpdateFunctionUrlConfig",
            "logs:DeleteRetentionPolicy",
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
