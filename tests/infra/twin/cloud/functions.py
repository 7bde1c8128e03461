"""Tiny functions in Python, and a cloud that they live in."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from infra.twin.cloud.cloud import Cloud

_RUNTIME = """
import json, os, sys, time
from http.client import HTTPConnection

api = HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
ROOT = "/2018-06-01/runtime/"

def ask(method, path, body=None, headers={}):
    api.request(method, ROOT + path, body, headers)
    answer = api.getresponse()
    return answer, answer.read()

def serve(handler):
    while True:
        answer, event = ask("GET", "invocation/next")
        request = answer.headers["Lambda-Runtime-Aws-Request-Id"]
        try:
            body = json.dumps(handler(json.loads(event), answer.headers)).encode()
        except Exception as error:
            kind = type(error).__name__
            report = json.dumps({"errorType": kind, "errorMessage": str(error)}).encode()
            headers = {"Lambda-Runtime-Function-Error-Type": kind}
            ask("POST", f"invocation/{request}/error", report, headers)
        else:
            ask("POST", f"invocation/{request}/response", body)
"""


class Functions:
    """Images that are Python sources, in a registry that knows their digests."""

    def __init__(self, folder: Path) -> None:
        self._sources: dict[str, Path] = {}
        self._folder = folder
        self.started: list[subprocess.Popen[bytes]] = []

    def launch(
        self, image_digest: str, environment: Mapping[str, str], /
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-I", "-u", str(self._sources[image_digest])],
            env={"PATH": os.defpath, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.started.append(process)
        return process

    def push(self, cloud: Cloud, source: str) -> str:
        """URI of an image whose program is the source; it calls `serve(handler)`."""
        program = _RUNTIME + textwrap.dedent(source)
        digest = f"sha256:{hashlib.sha256(program.encode()).hexdigest()}"
        path = self._folder / f"{digest[7:19]}.py"
        path.write_text(program)
        self._sources[digest] = path
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"size": len(program), "digest": digest},
            "layers": [{"digest": digest, "size": len(program)}],
        }
        ecr = client(cloud, "ecr")
        if not ecr.describe_repositories()["repositories"]:
            ecr.create_repository(repositoryName="kiln")
        ecr.put_image(repositoryName="kiln", imageManifest=json.dumps(manifest), imageDigest=digest)
        return f"123456789012.dkr.ecr.{cloud.region}.amazonaws.com/kiln@{digest}"


def client(cloud: Cloud, service: str) -> Any:
    """Without retries: each call is made once. Making a client takes 0.1 s of CPU time."""
    return _client(cloud.endpoint_url, cloud.region, service)


@lru_cache(maxsize=16)
def _client(endpoint_url: str, region: str, service: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=endpoint_url,
        region_name=region,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        config=Config(retries={"max_attempts": 0}, read_timeout=120),
    )


def metric_value(cloud: Cloud, metric: Mapping[str, Any], stat: str) -> float | None:
    """A statistic of the metric's last minutes; None if it has no values."""
    now = datetime.now(UTC)
    (found,) = client(cloud, "cloudwatch").get_metric_data(
        StartTime=now - timedelta(minutes=5),
        EndTime=now + timedelta(minutes=1),
        MetricDataQueries=[
            {"Id": "a", "MetricStat": {"Metric": metric, "Period": 600, "Stat": stat}}
        ],
    )["MetricDataResults"]
    return found["Values"][0] if found["Values"] else None


def create(cloud: Cloud, image: str, name: str = "kiln", **more: Any) -> None:
    """The function, its version 1, and the alias `live` on it."""
    role = client(cloud, "iam").create_role(RoleName=name, AssumeRolePolicyDocument="{}")["Role"]
    api = client(cloud, "lambda")
    api.create_function(
        FunctionName=name,
        PackageType="Image",
        Code={"ImageUri": image},
        Role=role["Arn"],
        Publish=True,
        **{"Timeout": 30, **more},
    )
    api.create_alias(FunctionName=name, Name="live", FunctionVersion="1")


def publish(cloud: Cloud, image: str, name: str = "kiln") -> str:
    """The number of a new version."""
    api = client(cloud, "lambda")
    api.update_function_code(FunctionName=name, ImageUri=image)
    return str(api.publish_version(FunctionName=name)["Version"])


def invoke(cloud: Cloud, name: str = "kiln", event: Any = None, **more: Any) -> tuple[Any, Any]:
    """The answer's facts, and its payload."""
    answer = client(cloud, "lambda").invoke(
        FunctionName=name, Payload=json.dumps(event or {}), **more
    )
    payload = answer["Payload"].read()
    return answer, json.loads(payload) if payload else None
