"""Each job of a workflow gets the role of its environment, and nobody else gets any.

The jobs' subjects are read from the workflows, the roles' trust from what Terraform plans.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.terraform.root import SOURCES
from tests.infra.terraform.aws import running_aws
from tests.infra.terraform.policies import allowed, documents, is_allowed, statements
from tests.infra.terraform.subjects import Job, read_jobs
from tests.infra.terraform.trust import ACTION, ISSUER, trusts

TABLE: dict[str, Any] = json.loads(
    (SOURCES / "roots/github/environments.tf.json").read_text(encoding="utf-8")
)["locals"]["environments"]
JOBS = list(read_jobs(Path(".github/workflows")))
# The repository as its tokens name it, made before July 2026 and since; and others like it.
REPOSITORIES = ("owner/name", "owner@12/name@345")
OTHERS = ("owner/name2", "other/name", "owner@13/name@345", "owner@12/name@346", "OWNER/name")
KEY = "arn:aws:kms:eu-central-1:123456789012:key/01234567-89ab-cdef-0123-456789abcdef"
DATA_KEY = KEY.replace("01234567", "76543210")
Roles = Mapping[str, str]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Policies of the root `github` by the repository's name: address to JSON."""
    found = {}
    with running_aws(tmp_path_factory.mktemp("github")) as aws:
        variables = {
            "create_provider": False,  # so that its ARN is known before it is applied
            "signing_key_arn": KEY,
            "kms_key_arn": DATA_KEY,
            "dns_zone_id": "Z0123456789ABC",
            "predictions": "s3://answers/yesterday.jsonl",
            "retraining": {"captures": "s3://captures-prod", "registry": "s3://models/registry/"},
        }
        root = aws.root("github", "account", {**variables, "repository": REPOSITORIES[0]})
        for repository in REPOSITORIES:
            one = replace(root, variables={**variables, "repository": repository})
            values = one.show(one.plan())["planned_values"]
            found[repository] = dict(documents({"values": values}))
    return found


@pytest.fixture
def roles(planned: dict[str, dict[str, str]], repository: str) -> Roles:
    """Trust policies by GitHub environment."""
    before, after = 'aws_iam_role.this["', '"].assume_role_policy'
    return {
        address.removeprefix(before).removesuffix(after): document
        for address, document in planned[repository].items()
        if address.startswith(before)
    }


def trusting(roles: Roles, subject: str, audience: str = "sts.amazonaws.com") -> set[str]:
    """Roles that such a token may assume."""
    claims = {"sub": subject, "aud": audience}
    return {name for name, document in roles.items() if trusts(document, claims)}


in_both_forms = pytest.mark.parametrize("repository", REPOSITORIES)


def test_the_workflows_name_the_environments_of_the_table() -> None:
    assert set().union(*(job.environments for job in JOBS)) == set(TABLE)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_job_may_ask_for_tokens_only_to_sign_in_from_an_environment(job: Job) -> None:
    assert job.gets_tokens == job.signs_in
    assert job.environments or not job.gets_tokens
    if job.serves:
        assert job.serves == {TABLE[name]["serves"] for name in job.environments}


def test_a_release_and_a_rollback_act_on_what_their_environments_serve() -> None:
    served = {job.name: job.serves for job in JOBS if job.serves}
    assert served == {
        "release/staging": {"staging"},
        "release/production": {"prod"},
        "rollback/rollback": {"staging", "prod"},
    }


def test_an_environment_admits_the_refs_that_its_jobs_run_from_and_no_others() -> None:
    """A rollback is started from main: an environment for tags alone would refuse it."""
    refs = {"push": "v*", "schedule": "main", "workflow_dispatch": "main"}
    for name, row in TABLE.items():
        jobs = [job for job in JOBS if name in job.environments]
        needed = {refs[trigger] for job in jobs for trigger in job.triggers}
        assert set(row["refs"]) == needed, name


@in_both_forms
@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_job_gets_the_role_of_its_environment_and_no_other(
    roles: Roles, repository: str, job: Job
) -> None:
    assert job.subjects
    for subject in job.subjects:
        kind, _, name = subject.partition(":")
        own = {name} if kind == "environment" else set()
        assert trusting(roles, f"repo:{repository}:{subject}") == own


@in_both_forms
def test_a_pull_request_gets_no_role(roles: Roles, repository: str) -> None:
    by_pull_requests = [job for job in JOBS if any("pull_request" in name for name in job.triggers)]
    assert by_pull_requests
    for job in by_pull_requests:
        assert not job.gets_tokens
        for subject in job.subjects:
            assert trusting(roles, f"repo:{repository}:{subject}") == set()


@in_both_forms
def test_other_repositories_environments_and_audiences_get_no_role(
    roles: Roles, repository: str
) -> None:
    assert set(roles) == set(TABLE)
    others = [other for other in (*OTHERS, *REPOSITORIES) if other != repository]
    for name in TABLE:
        right = f"repo:{repository}:environment:{name}"
        assert trusting(roles, right) == {name}
        assert trusting(roles, right, audience="https://github.com/owner") == set()
        assert trusting(roles, f"{right}2") == trusting(roles, f" {right}") == set()
        for other in others:
            assert trusting(roles, f"repo:{other}:environment:{name}") == set()


@in_both_forms
def test_a_role_has_the_policies_of_the_table_and_reads_where_it_says_so(
    planned: dict[str, dict[str, str]], repository: str
) -> None:
    given = {
        f"{name}/{policy}": allowed(planned[repository][_address(name, policy)])
        for name, row in TABLE.items()
        for policy in row["policies"]
    }
    attached = [a for a in planned[repository] if a.startswith("aws_iam_policy.this")]
    assert len(given) == len(attached)
    assert given["production-read/predictions"] == {"s3:GetObject"}
    assert given["training/retraining"] == {
        "kms:Decrypt",
        "kms:GenerateDataKey",
        "s3:GetObject",
        "s3:ListBucket",
        "s3:PutObject",
    }
    writing = statements(planned[repository][_address("training", "retraining")])
    [written] = [one["Resource"] for one in writing if "s3:PutObject" in one["Action"]]
    assert written == ["arn:aws:s3:::models/registry/*"]
    assert given["build/sign"] - given["production/verify"] == {"kms:Sign"}
    assert all("kms:Sign" not in given[f"{name}/verify"] for name in ("production", "staging"))


@in_both_forms
def test_terraform_may_change_the_one_zone_that_the_service_has_a_name_in(
    planned: dict[str, dict[str, str]], repository: str
) -> None:
    for name in ("production", "staging"):
        policies = [planned[repository][_address(name, "terraform_operations")]]
        for action in ("ChangeResourceRecordSets", "ListResourceRecordSets"):
            zone = "arn:aws:route53:::hostedzone/Z0123456789AB"
            assert is_allowed(policies, f"route53:{action}", f"{zone}C")
            assert not is_allowed(policies, f"route53:{action}", zone)


@in_both_forms
def test_a_role_may_use_the_key_of_what_it_reads_and_writes(
    planned: dict[str, dict[str, str]], repository: str
) -> None:
    reading = {"kms:Decrypt", "kms:GenerateDataKey"}
    wanted = {"registry": reading, "dvc": reading, "release": reading, "retraining": reading}
    wanted["terraform"] = reading | {"kms:CreateGrant", "kms:DescribeKey", "kms:Encrypt"}
    found = {
        policy: {
            action
            for one in statements(planned[repository][_address(name, policy)])
            if one["Resource"] == [DATA_KEY]
            for action in one["Action"]
        }
        for name, row in TABLE.items()
        for policy in row["policies"]
    }
    assert {policy: actions for policy, actions in found.items() if actions} == {
        policy: actions for policy, actions in wanted.items() if policy in found
    }
    assert {"release", "terraform"} <= set(found)


def _address(environment: str, policy: str) -> str:
    return f'aws_iam_policy.this["{environment}/{policy}"].policy'


# ---- The evaluator ----


def policy(*conditions: object, effect: str = "Allow", action: str = ACTION) -> str:
    """One statement for each condition; those behind the first deny."""
    principal = {"Federated": f"arn:aws:iam::1:oidc-provider/{ISSUER}"}
    statements = [
        {"Effect": effect, "Action": action, "Principal": principal, "Condition": condition}
        for condition in conditions
    ]
    for one in statements[1:]:
        one["Effect"] = "Deny"
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


SUB = f"{ISSUER}:sub"


@pytest.mark.parametrize(
    ("document", "is_trusted"),
    [
        (policy({"StringEquals": {SUB: "repo:a/b:ref:c"}}), True),
        (policy({"StringEquals": {SUB: ["x", "repo:a/b:ref:c"]}}), True),
        (policy({"StringEquals": {SUB: "repo:a/b:*"}}), False),
        (policy({"StringLike": {SUB: "repo:a/b:*"}}), True),
        (policy({"StringLike": {SUB: "repo:a/?:ref:c"}}), True),
        (policy({"StringLike": {SUB: "repo:a/b:re[f]:c"}}), False),
        (policy({"StringLike": {SUB: "repo:a/b:ref"}}), False),
        (policy({"StringLike": {SUB: "*"}, "StringEquals": {f"{ISSUER}:aud": "x"}}), False),
        (policy({}), True),
        (policy({}, {"StringLike": {SUB: "*:c"}}), False),
        (policy({}, {"StringLike": {SUB: "*:d"}}), True),
        (policy({}, effect="Deny"), False),
        (policy({}, action="sts:AssumeRole"), False),
    ],
)
def test_the_evaluator_reads_conditions_as_iam_does(document: str, is_trusted: bool) -> None:
    assert trusts(document, {"sub": "repo:a/b:ref:c"}) is is_trusted


def test_the_evaluator_refuses_operators_that_it_does_not_know() -> None:
    with pytest.raises(KeyError, match="StringNotEquals"):
        trusts(policy({"StringNotEquals": {SUB: "x"}}), {"sub": "y"})
