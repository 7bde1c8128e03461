"""AWS clients, error messages that say what to do, and the clock."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Protocol

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import (
    AssumeRoleWithWebIdentityCredentialFetcher,
    DeferredRefreshableCredentials,
    EnvProvider,
)
from botocore.exceptions import CredentialRetrievalError

from common.aws import OTHER, S3Store, addressing, aws_errors
from infra.release.errors import ReleaseError

_ADVICE = {
    "AccessDenied": "the identity lacks a permission: see infra/terraform's deploy role",
    "AccessDeniedException": "the identity lacks a permission: see infra/terraform's deploy role",
    "ExpiredToken": "the credentials have expired: sign in again",
    "ExpiredTokenException": "the credentials have expired: sign in again",
    "InvalidClientTokenId": "the credentials are of no account: check AWS_PROFILE",
    "NoSuchBucket": "the ledger's bucket is missing: apply Terraform first",
    "NotImplemented": "this store has no conditional writes, which the ledger needs",
    OTHER: "check names, credentials and permissions",
}


class Aws:
    """An AWS session; endpoint, region and credentials come from where boto3 finds them. In a job
    of GitHub Actions that sets AWS_ROLE_ARN, the credentials are renewed.

    A rollback must be over in 30 s, so calls to a service that does not answer end within seconds.
    """

    def __init__(self, region: str | None = None, invoke_timeout_s: float = 20.0) -> None:
        with explained("AWS"):
            self._session = boto3.session.Session(
                region_name=region, botocore_session=_renewing(os.environ)
            )
        self._invoke_timeout_s = invoke_timeout_s

    def session_ends_s(self) -> float | None:
        """Expiry of credentials that come from environment variables and are not renewed, in
        seconds since 1970; None for others, and without AWS_CREDENTIAL_EXPIRATION."""
        found = self._session.get_credentials()
        if found is None or found.method != EnvProvider.METHOD:
            return None
        expiry: datetime | None = getattr(found, "_expiry_time", None)
        return expiry.timestamp() if expiry else None

    @property
    def region(self) -> str:
        """The session's region; ReleaseError if none is configured."""
        if not self._session.region_name:
            raise ReleaseError("no AWS region: set AWS_REGION, or `region` in the tfvars")
        return str(self._session.region_name)

    @cached_property
    def functions(self) -> Any:
        return self._client("lambda", read_timeout=10)

    @cached_property
    def calls(self) -> Any:
        """A second Lambda client, for invocations: it does not retry, because a repeated call would
        count twice."""
        return self._client("lambda", read_timeout=self._invoke_timeout_s, attempts=1)

    @cached_property
    def s3(self) -> Any:
        return self._client("s3", read_timeout=5, s3=addressing(os.environ))

    def bucket(self, name: str, prefix: str) -> S3Store:
        """The objects below ``s3://name/prefix``."""
        return S3Store(self.s3, name, prefix, explained)

    @cached_property
    def ecr(self) -> Any:
        return self._client("ecr")

    @cached_property
    def logs(self) -> Any:
        return self._client("logs")

    @cached_property
    def cloudwatch(self) -> Any:
        return self._client("cloudwatch")

    @cached_property
    def sns(self) -> Any:
        return self._client("sns", read_timeout=5)

    @cached_property
    def sts(self) -> Any:
        return self._client("sts")

    def _client(
        self, service: str, read_timeout: float = 20, attempts: int = 3, **options: Any
    ) -> Any:
        config = Config(
            connect_timeout=5,
            read_timeout=read_timeout,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=32,
            **options,
        )
        with explained(service):
            return self._session.client(service, region_name=self.region, config=config)


_GITHUB = "github-oidc"
_TOKEN_TIMEOUT_S = 10


def _renewing(environ: Mapping[str, str]) -> botocore.session.Session | None:
    """A session that renews its credentials with a new OIDC token of GitHub before they expire;
    None outside a job that may request tokens and names a role in AWS_ROLE_ARN.

    A token is good for minutes, and a job may ask for as many as it likes.
    https://docs.github.com/en/actions/reference/security/oidc
    """
    role, asks = environ.get("AWS_ROLE_ARN"), environ.get("ACTIONS_ID_TOKEN_REQUEST_URL")
    if not (role and asks and "ACTIONS_ID_TOKEN_REQUEST_TOKEN" in environ):
        return None
    session = botocore.session.Session()
    fetcher = AssumeRoleWithWebIdentityCredentialFetcher(
        session.create_client,
        lambda: _github_token(asks, environ["ACTIONS_ID_TOKEN_REQUEST_TOKEN"]),
        role,
        extra_args={"RoleSessionName": f"kiln-{environ.get('GITHUB_RUN_ID', 'release')}"},
    )
    session._credentials = DeferredRefreshableCredentials(fetcher.fetch_credentials, _GITHUB)
    return session


def _github_token(url: str, bearer: str) -> str:
    request = urllib.request.Request(  # noqa: S310 # from GitHub
        f"{url}&audience=sts.amazonaws.com", headers={"Authorization": f"bearer {bearer}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_TOKEN_TIMEOUT_S) as answer:  # noqa: S310 # from GitHub
            return str(json.load(answer)["value"])
    except (OSError, ValueError, KeyError) as exc:
        raise CredentialRetrievalError(provider=_GITHUB, error_msg=exc) from exc


def explained(what: str) -> AbstractContextManager[None]:
    """Errors of boto3 inside become ReleaseErrors about `what`."""
    return aws_errors(what, ReleaseError, _ADVICE)


class Clock(Protocol):
    """The release manager's source of time."""

    def now(self) -> float:
        """The time in seconds since 1970."""

    def sleep(self, seconds: float) -> None: ...


class WallClock:
    """The clock of this machine."""

    def now(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def iso(seconds: float) -> str:
    """A time as records show it: UTC with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
