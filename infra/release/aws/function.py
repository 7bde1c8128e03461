"""The AWS Lambda function: its versions, its alias, and direct invocations of one version."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from botocore.exceptions import BotoCoreError, ClientError

from common.aws import error_code
from infra.release.aws.clients import Aws, explained
from infra.release.errors import LeaseLost, Refused, ReleaseError

_OURS = b"kiln"  # in hexadecimal digits, with four more letters that say what for
REPLAY, SHADOW = (_OURS + what for what in (b"-rel", b"-sha"))


def trace_id(purpose: bytes) -> str:
    """A new trace id for a request of the release manager."""
    return (purpose + os.urandom(8)).hex()


def is_ours(trace: str) -> bool:
    """Whether a request was the release manager's."""
    return trace.startswith(_OURS.hex() + b"-".hex())


def http_event(
    method: str, path: str, document: Any = None, trace: str | None = None
) -> dict[str, Any]:
    """API Gateway's event, payload format 2.0, with a JSON body."""
    headers = {"host": "release-manager", "content-type": "application/json"}
    headers["traceparent"] = f"00-{trace or trace_id(REPLAY)}-{os.urandom(8).hex()}-00"
    http = {
        "method": method,
        "path": path,
        "protocol": "HTTP/1.1",
        "sourceIp": "127.0.0.1",
        "userAgent": "kiln-release",
    }
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": headers,
        "requestContext": {
            "domainName": "release-manager",
            "http": http,
            "requestId": "release-manager",
            "routeKey": "$default",
            "stage": "$default",
        },
        "isBase64Encoded": False,
    }
    if document is not None:
        event["body"] = json.dumps(document)
    return event


Form = Literal["json", "raw", "form"]
FORMS: tuple[Form, ...] = get_args(Form)
_BOUNDARY = b"kiln-release-manager"


def predict_event(image: bytes, trace: str | None = None, form: Form = "json") -> dict[str, Any]:
    """A POST /predict event with one image file, as a JSON, raw or multipart body."""
    encoded = base64.b64encode(image).decode("ascii")
    if form == "json":
        return http_event("POST", "/predict", {"image": encoded}, trace)
    event = http_event("POST", "/predict", trace=trace)
    media_type = "application/octet-stream"
    if form == "form":
        media_type = f"multipart/form-data; boundary={_BOUNDARY.decode()}"
        head = b'Content-Disposition: form-data; name="image"; filename="image"'
        part = b"--" + _BOUNDARY + b"\r\n" + head + b"\r\n\r\n" + image
        encoded = base64.b64encode(part + b"\r\n--" + _BOUNDARY + b"--\r\n").decode("ascii")
    event["headers"]["content-type"] = media_type
    return event | {"body": encoded, "isBase64Encoded": True}


def http_response(payload: bytes) -> tuple[int, Any]:
    """Status and JSON of what the function returned; ValueError if it is no answer to a request."""
    answer = json.loads(payload)
    if not isinstance(answer, dict) or "statusCode" not in answer:
        raise ValueError(f"no HTTP answer: {payload[:200]!r}")
    body = answer.get("body") or ""
    if answer.get("isBase64Encoded"):
        body = base64.b64decode(body)
    return int(answer["statusCode"]), json.loads(body) if body else None


_READY_S = 300.0  # an image is unpacked and cached before a version of it runs


class CallFailed(Exception):
    """A call got no answer from the function: it crashed, timed out, or was not reached."""


class Throttled(CallFailed):
    """The call exceeded the function's concurrency; this says nothing about the version."""


@dataclass(frozen=True)
class Alias:
    """The alias's target: `version`, and the shares of traffic that other versions get."""

    version: str
    others: Mapping[str, float] = field(default_factory=dict)
    revision: str = ""

    @property
    def weights(self) -> dict[str, float]:
        """Share of each version, together 1."""
        rest = round(1 - sum(self.others.values()), 6)
        return {self.version: rest, **self.others}

    def __str__(self) -> str:
        return shares(self.weights)


def shares(weights: Mapping[str, float]) -> str:
    """Text such as "80 % to version 1, 20 % to version 2"."""
    return ", ".join(f"{100 * share:.4g} % to version {v}" for v, share in weights.items())


@dataclass(frozen=True)
class Response:
    """The response of a version to a request, and which version it was."""

    status: int
    document: Any
    version: str | None
    seconds: float


class LambdaFunction:
    """A Lambda function and the alias that callers use."""

    def __init__(self, aws: Aws, name: str, alias: str) -> None:
        self._aws, self.name, self.alias_name = aws, name, alias

    # ---- Versions ----

    def digest(self, version: str | None = None) -> str:
        """Digest (`sha256:…`) of a version's image; None: of $LATEST, which Terraform deploys.

        Raises:
            ReleaseError: there is no such version.
        """
        qualifier = {"Qualifier": version} if version else {}
        with explained(f"function {self.name}"):
            try:
                found = self._aws.functions.get_function(FunctionName=self.name, **qualifier)
            except ClientError as exc:
                if error_code(exc) == "ResourceNotFoundException":
                    which = f"version {version} of {self.name}" if version else self.name
                    raise ReleaseError(f"{which} does not exist in {self._aws.region}") from exc
                raise
        code = found.get("Code", {})
        for uri in (code.get("ResolvedImageUri", ""), code.get("ImageUri", "")):
            if "@sha256:" in uri:
                return str(uri.rpartition("@")[2])
        return f"sha256:{found['Configuration'].get('CodeSha256', '')}"

    def exists(self) -> bool:
        """Whether there is a function of this name."""
        with explained(f"function {self.name}"):
            try:
                self._aws.functions.get_function_configuration(FunctionName=self.name)
            except ClientError as exc:
                if error_code(exc) == "ResourceNotFoundException":
                    return False
                raise
        return True

    def versions(self) -> list[str]:
        """All published versions, oldest first."""
        with explained(f"function {self.name}"):
            pages = self._aws.functions.get_paginator("list_versions_by_function").paginate(
                FunctionName=self.name
            )
            found = [item["Version"] for page in pages for item in page["Versions"]]
        return sorted((version for version in found if version.isdecimal()), key=int)

    def demand(self, version: str) -> None:
        """Checks that a version is published.

        Raises:
            ReleaseError: it is not.
        """
        if version not in (there := self.versions()):
            raise ReleaseError(
                f"version {version} of {self.name} does not exist: there are "
                f"{', '.join(there) or 'none'}"
            )

    def publish(self, digest: str) -> str:
        """The version of what Terraform deployed, which must be this image.

        Lambda publishes nothing new while code and configuration are as in the last version, so
        repeating it is safe.

        Raises:
            Refused: something else is deployed, or it does not become ready.
        """
        self._wait(None)
        if (found := self.digest()) != digest:
            raise Refused(
                f"{self.name} has image {found}, expected {digest}: somebody else deployed "
                "meanwhile; repeat the command"
            )
        with explained(f"function {self.name}"):
            answer = self._aws.functions.publish_version(FunctionName=self.name)
        version = str(answer["Version"])
        self._wait(version)
        return version

    def _wait(self, version: str | None) -> None:
        qualifier = {"Qualifier": version} if version else {}
        deadline = time.monotonic() + _READY_S
        while True:
            with explained(f"function {self.name}"):
                found = self._aws.functions.get_function_configuration(
                    FunctionName=self.name, **qualifier
                )
            state = found.get("State", "Active")
            update = "Successful" if version else found.get("LastUpdateStatus", "Successful")
            if "Failed" in (state, update):
                why = found.get("StateReason") or found.get("LastUpdateStatusReason") or "no reason"
                raise Refused(f"{self.name}: Lambda cannot run it: {why}")
            if state in ("Active", "Inactive") and update == "Successful":
                return
            if time.monotonic() > deadline:
                raise Refused(f"{self.name} is {state} and its update {update} for {_READY_S:g} s")
            time.sleep(1)

    # ---- Alias ----

    def alias(self) -> Alias:
        """The versions that the alias routes to, with their weights."""
        with explained(f"alias {self.alias_name} of {self.name}"):
            found = self._aws.functions.get_alias(FunctionName=self.name, Name=self.alias_name)
        others = (found.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}
        return Alias(
            str(found["FunctionVersion"]),
            {str(version): float(share) for version, share in others.items() if share},
            str(found.get("RevisionId", "")),
        )

    def point(self, version: str, others: Mapping[str, float], seen: Alias | None = None) -> None:
        """Moves the traffic in one call.

        Args:
            seen: as it was read; it must be unchanged since. None moves it whatever it is, for a
                rollback.

        Raises:
            LeaseLost: somebody else moved it meanwhile.
        """
        condition = {"RevisionId": seen.revision} if seen and seen.revision else {}
        with explained(f"alias {self.alias_name} of {self.name}"):
            try:
                self._aws.functions.update_alias(
                    FunctionName=self.name,
                    Name=self.alias_name,
                    FunctionVersion=version,
                    RoutingConfig={"AdditionalVersionWeights": dict(others)},
                    **condition,
                )
            except ClientError as exc:
                if error_code(exc) == "PreconditionFailedException":
                    # Ours, perhaps: boto3 repeats a request whose answer it did not get.
                    if self.alias().weights == Alias(version, others).weights:
                        return
                    raise LeaseLost(
                        f"somebody else moved the alias {self.alias_name}: nothing was changed "
                        "here. See `bazel run //infra:status`"
                    ) from exc
                raise

    # ---- Calls ----

    def ask(self, qualifier: str, event: Mapping[str, Any]) -> Response:
        """The answer of a version, or of the alias.

        Raises:
            Throttled: there was no room.
            CallFailed: it crashed, took too long, or answered no HTTP.
        """
        start = time.monotonic()
        try:
            answer = self._aws.calls.invoke(
                FunctionName=self.name, Qualifier=qualifier, Payload=json.dumps(event).encode()
            )
            payload = answer["Payload"].read()
        except ClientError as exc:
            kind = Throttled if error_code(exc) == "TooManyRequestsException" else CallFailed
            raise kind(str(exc)) from exc
        except BotoCoreError as exc:
            raise CallFailed(str(exc)) from exc
        if answer.get("FunctionError"):
            raise CallFailed(f"{answer['FunctionError']}: {payload[:300].decode(errors='replace')}")
        try:
            status, document = http_response(payload)
        except ValueError as exc:
            raise CallFailed(str(exc)) from exc
        version = answer.get("ExecutedVersion")
        return Response(status, document, version, time.monotonic() - start)

    def send(self, qualifier: str, event: Mapping[str, Any]) -> None:
        """Sends an event to a version asynchronously; nobody gets the answer."""
        with explained(f"function {self.name}"):
            self._aws.calls.invoke(
                FunctionName=self.name,
                Qualifier=qualifier,
                InvocationType="Event",
                Payload=json.dumps(event).encode(),
            )

    def send_as_alias_does(self, version: str) -> None:
        """Copies the alias's settings for asynchronous events (retries, age, destinations) to a
        version: they belong to one qualifier, and a version begins with Lambda's defaults."""
        names = ("MaximumRetryAttempts", "MaximumEventAgeInSeconds", "DestinationConfig")
        functions = self._aws.functions
        with explained(f"function {self.name}"):
            try:
                found = functions.get_function_event_invoke_config(
                    FunctionName=self.name, Qualifier=self.alias_name
                )
            except ClientError as exc:
                if error_code(exc) != "ResourceNotFoundException":
                    raise
                return  # the alias has Lambda's own as well
            functions.put_function_event_invoke_config(
                FunctionName=self.name,
                Qualifier=version,
                **{name: found[name] for name in names if found.get(name) is not None},
            )

    def model_info(self, qualifier: str) -> dict[str, Any]:
        """A version's answer to /model/info.

        Raises:
            CallFailed: it does not say it.
        """
        answer = self.ask(qualifier, http_event("GET", "/model/info"))
        if answer.status != 200 or not isinstance(answer.document, dict):
            raise CallFailed(f"/model/info answered {answer.status}: {answer.document!r:.200}")
        return {**answer.document, "executed_version": answer.version}
