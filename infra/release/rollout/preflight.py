"""Preflight checks, before anything is changed."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from common.aws import error_code
from infra.release.aws.clients import Aws, explained
from infra.release.errors import ReleaseError
from infra.release.settings import Preflight
from infra.supply_chain.provenance import SERVICE, WATCHER
from infra.supply_chain.registry import LoginError
from infra.supply_chain.signature import Expectation, NotTrusted, verify
from infra.terraform.service import ServiceOutputs

_URI = re.compile(
    r"(?P<registry>[^/@]+)/(?P<repository>[a-z0-9._/-]+)(:[\w.-]+)?@(?P<digest>sha256:[0-9a-f]{64})"
)

_CLOCK_S = 10.0  # less than log lines may take to be seen (`settle_s`)


@dataclass(frozen=True)
class Image:
    """An image in a repository, by digest."""

    uri: str
    repository: str  # without the registry's host
    digest: str


@dataclass(frozen=True)
class Check:
    """The result of one preflight check; `blocks` matters only if it did not pass."""

    name: str
    passed: bool
    detail: str
    blocks: bool = True


def parse_image(text: str, repository_url: str = "") -> Image:
    """An image from its URI, or from its digest in the environment's repository.

    Raises:
        ReleaseError: it is not named by digest.
    """
    uri = f"{repository_url}@{text}" if text.startswith("sha256:") and repository_url else text
    match = _URI.fullmatch(uri)
    if match is None:
        raise ReleaseError(
            f"{text} names no image by digest: expected REPOSITORY@sha256:… (64 hexadecimal "
            "digits); `bazel run //serve:push_image` prints it"
        )
    return Image(uri, match["repository"], match["digest"])


def check_all(
    aws: Aws,
    settings: Preflight,
    image: Image,
    outputs: ServiceOutputs | None,
    ignore_drift: bool,
) -> tuple[list[Check], str | None]:
    """All checks, and the image's model version according to signature or registry.

    Args:
        outputs: of the environment, once it was applied.
    """
    region, drift_alarm = (outputs.region, outputs.drift_alarm) if outputs else ("", None)
    identity, clock = _identity(aws, settings.account)
    found = [identity, clock, _region(aws, region)]
    found.append(exists := check_image(aws, image))
    if exists.passed:
        found.append(_scan(aws, settings, image))
    found.append(_drift(aws, drift_alarm, ignore_drift))
    signed = registered = None
    if settings.signing_key:
        check, signed = check_signature(settings, image)
        found.append(check)
    if settings.model_registry:
        check, registered = _registered(aws, settings, image)
        found.append(check)
    if signed and registered and signed != registered:
        detail = f"signed with model {signed[:12]}, but linked to {registered[:12]}: link it anew"
        found.append(Check("model version", False, detail))
    return found, signed or registered


def _identity(aws: Aws, account: str) -> tuple[Check, Check]:
    """The caller's identity, and whether this machine's clock agrees with AWS's."""
    with explained("STS"):
        caller = aws.sts.get_caller_identity()
    good = account in ("", caller["Account"])
    wanted = "" if good else f", expected account {account}: sign in to that one"
    identity = Check("identity", good, f"{caller['Arn']} in {caller['Account']}{wanted}")
    answered = caller["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    return identity, check_clock(answered, time.time())


def check_clock(answered: str, now_s: float) -> Check:
    """Whether this machine's clock is right: log lines are searched by time, so a fast clock would
    find none and a slow one those of another time.

    Args:
        answered: the header Date of an answer that has just come.
    """
    try:
        ahead_s = now_s - parsedate_to_datetime(answered).timestamp()
    except ValueError:
        return Check("clock", False, f"AWS does not say what time it is ({answered!r})", False)
    detail = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} AWS"
    good = abs(ahead_s) <= _CLOCK_S
    wanted = "" if good else f", at most {_CLOCK_S:.0f} s are allowed: set this machine's clock"
    return Check("clock", good, f"{detail}{wanted}")


def _region(aws: Aws, expected: str) -> Check:
    good = expected in ("", aws.region)
    wanted = "" if good else f", but the environment is in {expected}: set AWS_REGION"
    return Check("region", good, f"{aws.region}{wanted}")


def check_image(aws: Aws, image: Image) -> Check:
    """Checks that ECR has the image."""
    with explained("ECR"):
        try:
            aws.ecr.describe_images(
                repositoryName=image.repository, imageIds=[{"imageDigest": image.digest}]
            )
        except ClientError as exc:
            if error_code(exc) not in ("ImageNotFoundException", "RepositoryNotFoundException"):
                raise
            return Check(
                "image",
                False,
                f"{image.repository}@{image.digest} is not in ECR: push it with "
                "`bazel run //serve:push_image`",
            )
    return Check("image", True, f"{image.repository}@{image.digest[:19]}…")


def _scan(aws: Aws, settings: Preflight, image: Image) -> Check:
    with explained("ECR"):
        try:
            answer = aws.ecr.describe_image_scan_findings(
                repositoryName=image.repository, imageId={"imageDigest": image.digest}
            )
        except ClientError as exc:
            if error_code(exc) != "ScanNotFoundException":
                raise
            required = settings.scan_required
            return Check("scan", False, "the image was not scanned", blocks=required)
    status = answer.get("imageScanStatus", {}).get("status", "")
    if status not in ("COMPLETE", "ACTIVE"):
        return Check("scan", False, f"the scan is {status}", blocks=settings.scan_required)
    counts = answer.get("imageScanFindings", {}).get("findingSeverityCounts", {})
    refused = [name for name in settings.refused_severities if counts.get(name)]
    listed = ", ".join(f"{count} {name.lower()}" for name, count in counts.items() if count)
    return Check("scan", not refused, f"findings: {listed or 'none'}")


def _drift(aws: Aws, name: str | None, ignore: bool) -> Check:
    state = alarm_states(aws, [name]).get(name) if name else None
    if state != "ALARM":
        there_is_none = f"there is no alarm {name}" if name else "there is none yet"
        return Check("drift alarm", True, state or there_is_none, blocks=False)
    detail = (
        f"{name} is raised: live images are not what the model knows, so neither are the verdict's "
        "comparisons with the past; --ignore-drift releases nevertheless"
    )
    return Check("drift alarm", False, detail, blocks=not ignore)


_ALARMS = 100  # that CloudWatch takes in a call, and it speaks of composite ones only if asked for


def alarm_states(aws: Aws, names: list[str]) -> dict[str, str]:
    """OK, ALARM or INSUFFICIENT_DATA of those that exist."""
    found: dict[str, str] = {}
    for start in range(0, len(names), _ALARMS):
        some = names[start : start + _ALARMS]
        with explained("CloudWatch alarms"):
            pages = aws.cloudwatch.get_paginator("describe_alarms").paginate(
                AlarmNames=some, AlarmTypes=["CompositeAlarm", "MetricAlarm"]
            )
            for page in pages:
                alarms = (*page.get("MetricAlarms", ()), *page.get("CompositeAlarms", ()))
                found |= {alarm["AlarmName"]: alarm["StateValue"] for alarm in alarms}
    return found


def check_watcher(aws: Aws, settings: Preflight, image: Image) -> list[Check]:
    """The watcher has the permissions of a release, so its image gets the same checks."""
    found = [replace(check_image(aws, image), name="watcher")]
    if settings.signing_key:
        check, _ = check_signature(settings, image, WATCHER)
        found.append(replace(check, name="watcher's signature"))
    return found


def check_signature(
    settings: Preflight, image: Image, target: str = SERVICE
) -> tuple[Check, str | None]:
    """Whether the image is signed by the expected builder; the model version inside, if any."""
    expected = Expectation(builder=settings.builder or None, target=target)
    try:
        made = verify(image.uri, settings.signing_key, expected)
    except (NotTrusted, LoginError) as exc:
        return Check("signature", False, str(exc)), None
    version = made.model.version if made.model else None
    inside = f" with model {version[:12]}" if version else ""
    return Check("signature", True, f"built from commit {made.commit[:12]}{inside}"), version


def _registered(aws: Aws, settings: Preflight, image: Image) -> tuple[Check, str | None]:
    """Whether the registry's alias stands for the model in this image: its gates let it pass.

    Read from the registry's objects, whose format is its interface (ml/registry).
    """
    parts = urlsplit(settings.model_registry)
    if parts.scheme != "s3" or not parts.netloc:
        raise ReleaseError(
            f"preflight.model_registry: expected s3://bucket/prefix, got {settings.model_registry}"
        )
    store = aws.bucket(parts.netloc, parts.path)
    try:
        linked = store.read(f"images/{image.digest.removeprefix('sha256:')}.json")
    except KeyError:
        detail = (
            f"{store.url} does not know this image: `bazel run //ml:registry -- link --image "
            f"{image.digest} --version …`"
        )
        return Check("model registry", False, detail), None
    version = str(json.loads(linked)["version"])
    records = store.entries("ledger/")
    aliases = json.loads(store.read(records[-1].key))["aliases"] if records else {}
    passed = aliases.get(settings.model_alias) in (version, image.digest)
    detail = f"model {version[:12]} is {settings.model_alias}"
    if not passed:
        detail = (
            f"model {version[:12]} is not {settings.model_alias}: `bazel run //ml:registry -- "
            f"promote {version[:12]} --alias {settings.model_alias}` asks its gates"
        )
    return Check("model registry", passed, detail), version
