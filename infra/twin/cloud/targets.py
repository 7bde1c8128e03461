"""Resolves the version for a call, and its settings, from moto's control plane."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from moto.awslambda.exceptions import UnknownAliasException, UnknownFunctionException
from moto.awslambda.models import LambdaBackend, LambdaFunction, lambda_backends

ACCOUNT = "123456789012"  # moto's objects
LATEST = "$LATEST"
_ARN = re.compile(
    r"(?:arn:aws[\w-]*:lambda:[\w-]+:\d{12}:function:|\d{12}:(?:function:)?|function:)?"
    r"(?P<name>[\w-]+)(?::(?P<qualifier>[\w$-]+))?"
)


class UnknownFunction(LookupError):
    """No function, version or alias has this name."""


@dataclass(frozen=True)
class Target:
    """The version of a function that a qualifier resolved to."""

    region: str
    name: str
    version: str  # a number, or $LATEST
    qualifier: str | None  # the caller's qualifier: an alias, a version, or nothing
    digest: str  # the image's digest
    timeout_s: float
    memory_mb: int
    environment: Mapping[str, str] = field(hash=False)
    concurrency: int | None  # reserved concurrency
    retries: int  # retries of an asynchronous invocation

    @property
    def arn(self) -> str:
        """The ARN as the caller named it."""
        bare = f"arn:aws:lambda:{self.region}:{ACCOUNT}:function:{self.name}"
        return f"{bare}:{self.qualifier}" if self.qualifier else bare

    @property
    def resource(self) -> str:
        """The value of its metrics' dimension `Resource`."""
        return f"{self.name}:{self.qualifier}" if self.qualifier else self.name

    @property
    def deployment(self) -> str:
        """Calls with equal values may share a process."""
        facts = (self.region, self.name, self.version, self.digest, self.memory_mb)
        return json.dumps([*facts, sorted(self.environment.items())])


def split_name(name: str, qualifier: str | None) -> tuple[str, str | None]:
    """Splits a name, partial ARN or full ARN into name and qualifier; one in the name takes
    precedence.

    Raises:
        UnknownFunction: it is malformed.
    """
    match = _ARN.fullmatch(name)
    if not match:
        raise UnknownFunction(name)
    return match["name"], match["qualifier"] or qualifier


def find_target(region: str, name: str, qualifier: str | None, chance: random.Random) -> Target:
    """The version that serves this call; weighted aliases draw it at random.

    Raises:
        UnknownFunction: the name, version or alias does not exist.
    """
    backend: LambdaBackend = lambda_backends[ACCOUNT][region]
    name, qualifier = split_name(name, qualifier)
    version = qualifier or LATEST
    try:
        if version != LATEST and not version.isdecimal():
            version = _draw(backend, name, version, chance)
        function: LambdaFunction | None = backend.get_function(name, version)
        if function is None:
            raise UnknownFunction(name)
    except (UnknownFunctionException, UnknownAliasException) as error:
        bare = f"arn:aws:lambda:{region}:{ACCOUNT}:function:{name}"
        raise UnknownFunction(f"{bare}:{qualifier}" if qualifier else bare) from error
    return _target(backend, function, region, version, qualifier)


def _draw(backend: LambdaBackend, name: str, alias: str, chance: random.Random) -> str:
    found = backend.get_alias(alias, name)
    routing: Mapping[str, Mapping[str, float]] = found.routing_config or {}  # type: ignore[assignment]
    left = chance.random()
    for version, weight in (routing.get("AdditionalVersionWeights") or {}).items():
        left -= weight
        if left < 0:
            return version
    return found.function_version


def _target(
    backend: LambdaBackend,
    function: LambdaFunction,
    region: str,
    version: str,
    qualifier: str | None,
) -> Target:
    latest = backend.get_function(function.function_name, LATEST)  # holds what all versions share
    asynchronous = next(iter(latest.event_invoke_config), None)
    retries = asynchronous.config.get("MaximumRetryAttempts", 2) if asynchronous else 2
    reserved = latest.reserved_concurrency
    return Target(
        region=region,
        name=function.function_name,
        version=version,
        qualifier=qualifier,
        digest=f"sha256:{function.code_sha_256}",
        timeout_s=float(function.timeout),
        memory_mb=int(function.memory_size),
        environment=function.environment_vars,
        concurrency=None if reserved is None else int(reserved),
        retries=int(retries),
    )
