"""A function to release into, in a cloud on loopback, and the commands that do it.

The function's program is small and quick: it answers like the service, and writes its metrics as
the service does. Its image is a Python source, started by the cloud's data plane.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from moto.cloudwatch.models import cloudwatch_backends
from moto.sns.models import sns_backends
from rich.console import Console

from common.aws import S3Store
from common.golden import GoldenImage, write_golden_set
from infra.release.aws.clients import explained
from infra.release.commands import deploy, rollback, status
from infra.release.commands.command import Terminal
from infra.release.state.lease import Lease
from infra.release.state.ledger import Ledger, Record
from infra.terraform.service import Infrastructure
from infra.twin.cloud.cloud import Cloud
from tests.helpers.waiting import wait_until
from tests.infra.release.bare import BUCKET, BareInfrastructure
from tests.infra.twin.cloud.functions import Functions, client, create

CLASSES = ("cat", "dog", "ship")
TOKEN = "s3cr3t" * 6  # pragma: allowlist secret: made up for a log
READ_EVERY_S = 0.2  # the ledger: reading all of it takes time from the release that writes it

PROGRAM = """
import base64, random

MODEL, DELAY_S = {model!r}, {delay_s}
FAILING, CRASHING, MISLABELLED, REFUSING = {failing}, {crashing}, {wrong}, {refusing}
LEAKING_MB, START_S, LOGGING = {leaking_mb}, {start_s}, {logging}
kept = []
time.sleep(START_S)
CLASSES = ["cat", "dog", "ship"]
VERSION = os.environ.get("AWS_LAMBDA_FUNCTION_VERSION", "")

def metrics(trace, **values):
    dimensions = [name for name in ("http.route", "http.response.status_code", "class")
                  if name in values]
    names = [{{"Name": name}} for name in values if name not in dimensions]
    print(json.dumps({{
        "_aws": {{"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [
            {{"Namespace": "Kiln", "Dimensions": [dimensions], "Metrics": names}}]}},
        "trace_id": trace, "faas.version": VERSION, **values}}), flush=True)

def answer(status, **document):
    return {{"statusCode": status, "body": json.dumps(document)}}

def injected():
    # What AWS FIS does by its extension of the function: delay, error, another response.
    try:
        with open({faults!r}) as file:
            fault = json.load(file)
    except OSError:
        return None
    return fault["kind"] if VERSION in fault["versions"] else None

def handler(event, headers):
    fault = injected()
    if fault == "delay":
        time.sleep(0.4)
    if fault == "error":
        raise RuntimeError("injected")
    if fault == "response":
        return answer(500)
    path, start = event["rawPath"], time.perf_counter()
    trace = event["headers"].get("traceparent", "-" + os.urandom(16).hex()).split("-")[1]
    if path == "/ready":
        return answer(200, ready=True)
    if path == "/model/info":
        return answer(200, version=MODEL, classes=CLASSES)
    time.sleep(DELAY_S)
    kept.append(b"x" * int(LEAKING_MB * 2**20))
    is_traffic = not trace.startswith(b"kiln-".hex())
    if is_traffic and random.random() < CRASHING:
        os._exit(1)
    failed = is_traffic and random.random() < FAILING
    body = event["body"]
    if event["isBase64Encoded"]:
        body = base64.b64decode(body).decode()
    if "json" in event["headers"]["content-type"]:
        body = base64.b64decode(json.loads(body)["image"]).decode()
    if "multipart" in event["headers"]["content-type"]:
        body = body.partition("\\r\\n\\r\\n")[2].partition("\\r\\n")[0]
    if random.random() < LOGGING:
        print("got", event["headers"] | {{"authorization": "Bearer {token}"}}, flush=True)
    text = body
    label = text.partition(":")[0]
    if random.random() < MISLABELLED:
        label = CLASSES[(CLASSES.index(label) + 1) % 3]
    refused = is_traffic and random.random() < REFUSING
    status = 500 if failed else 422 if refused else 200
    values = {{"http.route": path, "http.response.status_code": str(status),
              "http.server.request.duration": time.perf_counter() - start}}
    if status == 200:
        values |= {{"class": label, "kiln.predictions": 1, "kiln.confidence": 0.97}}
    metrics(trace, **values)
    return answer(status, label=label, model_version=MODEL) if status == 200 else answer(status)

serve(handler)
"""

# Everything in fractions of a second, and limits that a few dozen requests can prove.
SETTINGS = """
strategy = "canary"
on_hold = "roll back"
most_hold_s = 60
watch_s = 0.3
poll_s = 0.1
settle_s = 0.7
lease_s = 20
rollback_s = 30

[canary]
weights = [0.2, 0.5]
bake_s = 1
look_s = 1

[blue-green]
bake_s = 0.5
look_s = 0.5

[ab]
weight = 0.5
bake_s = 2
look_s = 1

[golden]
per_look = 20
budget_s = 5

[verdict]
false_alarm_rate = 0.05
missed_harm_rate = 0.1
harmful_error_excess = 0.3
harmful_accuracy_loss = 0.3
harmful_disagreement = 0.4
harmful_class_mix_psi = 0.5
harmful_confidence_ks = 0.5
harmful_latency_ratio = 20
fewest_images = 10
required = ["errors", "accuracy"]
"""


@dataclass
class Result:
    """What a command said."""

    code: int
    data: dict[str, Any]
    log: str


@dataclass
class World:
    """One function with its alias, ledger and golden set."""

    cloud: Cloud
    functions: Functions
    folder: Path
    name: str = "kiln"
    infrastructure: BareInfrastructure = field(init=False)
    config: Path = field(init=False)
    golden: Path = field(init=False)

    def __post_init__(self) -> None:
        self.infrastructure = BareInfrastructure(self.name)
        client(self.cloud, "sns").create_topic(Name=self.name)
        self.config = self.folder / f"{self.name}.toml"
        self.config.write_text(SETTINGS)
        self.golden = self.folder / "golden.zip"
        if not self.golden.exists():
            images = [
                GoldenImage(f"{CLASSES[n % 3]}:{n}".encode(), CLASSES[n % 3]) for n in range(600)
            ]
            write_golden_set(self.golden, "made up", images)

    def set(self, before: str, after: str) -> None:
        """Changes a setting."""
        text = self.config.read_text()
        assert before in text
        self.config.write_text(text.replace(before, after))

    def push(self, model: str, **behaviour: float) -> str:
        """URI of an image; see `PROGRAM` for how it may behave."""
        shares = ("failing", "crashing", "wrong", "refusing", "logging")
        defaults = dict.fromkeys((*shares, "delay_s", "leaking_mb", "start_s"), 0.0)
        given: dict[str, Any] = {"model": model, "token": TOKEN, "faults": str(self.faults)}
        program = PROGRAM.format(**given, **(defaults | behaviour))
        return self.functions.push(self.cloud, program)

    @property
    def faults(self) -> Path:
        """A file: what happens to calls of some versions, as long as it is there."""
        return self.folder / f"{self.name}-faults.json"

    def create(self, image: str) -> None:
        """The function, at its version 1."""
        create(self.cloud, image, self.name)

    def deploy(self, image: str, *arguments: str) -> Result:
        given = ("--image", image, "--golden", str(self.golden), "--yes")
        return self.run(deploy.main, *given, *arguments)

    def rollback(self, *arguments: str) -> Result:
        return self.run(rollback.main, "--yes", *arguments)

    def status(self) -> dict[str, Any]:
        return self.run(status.main).data

    def run(self, main: Callable[..., int], *arguments: str) -> Result:
        """A command, in this process."""
        out, errors = Console(file=io.StringIO(), width=140), Console(file=io.StringIO(), width=140)
        standard = ("--env", "dev", "--config", str(self.config), "--json")
        code = main([*standard, *arguments], out, errors, self.open)
        printed: Any = out.file
        said: Any = errors.file
        return Result(code, json.loads(printed.getvalue()), said.getvalue())

    def open(self, options: argparse.Namespace, terminal: Terminal) -> Infrastructure:
        return self.infrastructure

    def alias(self) -> dict[str, float]:
        found = client(self.cloud, "lambda").get_alias(FunctionName=self.name, Name="live")
        others = (found.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}
        return {found["FunctionVersion"]: 1 - sum(others.values()), **others}

    def messages(self) -> list[str]:
        """Subjects of what the topic was told."""
        return [
            str(subject)
            for topic in sns_backends["123456789012"][self.cloud.region].topics.values()
            for _, _, subject, _, _ in topic.sent_notifications
        ]

    def metric(self, name: str, dimensions: Mapping[str, str] | None = None) -> float | None:
        """The newest value that was put."""
        wanted = {"service.name": "kiln", **(dimensions or {})}
        data: Any = cloudwatch_backends["123456789012"][self.cloud.region].metric_data
        found = [
            datum.value
            for datum in data
            if datum.name == name and {d.name: d.value for d in datum.dimensions} == wanted
        ]
        return found[-1] if found else None

    def versions(self) -> list[str]:
        """Published ones."""
        found = client(self.cloud, "lambda").list_versions_by_function(FunctionName=self.name)
        return [version["Version"] for version in found["Versions"]]

    def store(self) -> S3Store:
        """Where its ledger and its lease are."""
        return S3Store(client(self.cloud, "s3"), BUCKET, self.name, explained)

    def lease(self) -> Lease:
        return Lease(self.store(), 10)

    def delete_ledger(self) -> None:
        """Its bucket, with everything in it."""
        s3 = client(self.cloud, "s3")
        for item in s3.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
            s3.delete_object(Bucket=BUCKET, Key=item["Key"])
        s3.delete_bucket(Bucket=BUCKET)

    def ledger(self) -> list[Record]:
        """The records; raises if the chain is broken."""
        return Ledger(self.store()).records()

    def kinds(self) -> list[str]:
        return [record.decision.kind for record in self.ledger()]

    @contextmanager
    def traffic(self, callers: int = 3, pause_s: float = 0.03) -> Iterator[list[int]]:
        """Callers of the HTTP API; gives the statuses that they got."""
        statuses: list[int] = []
        stop = threading.Event()
        threads = [
            threading.Thread(target=self._call, args=(statuses, stop, pause_s))
            for _ in range(callers)
        ]
        for thread in threads:
            thread.start()
        try:
            yield statuses
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _call(self, statuses: list[int], stop: threading.Event, pause_s: float) -> None:
        address = urlsplit(self.cloud.url).netloc
        number = 0
        while not stop.wait(pause_s):
            number += 1
            image = base64.b64encode(f"{CLASSES[number % 3]}:{number}".encode()).decode()
            connection = HTTPConnection(address, timeout=20)
            try:
                headers = {"Content-Type": "application/json"}
                connection.request("POST", "/predict", json.dumps({"image": image}), headers)
                statuses.append(connection.getresponse().status)
            except (OSError, HTTPException):
                statuses.append(0)
            finally:
                connection.close()


@contextmanager
def alarm(world: World, when: Callable[[], bool], name: str = "kiln-errors") -> Iterator[None]:
    """An alarm goes off in the block, once something holds."""
    alarms = client(world.cloud, "cloudwatch")
    alarms.put_metric_alarm(
        AlarmName=name,
        Namespace="Kiln",
        MetricName="none",
        Statistic="Sum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1,
        ComparisonOperator="GreaterThanThreshold",
        TreatMissingData="ignore",  # or the next look would take the alarm back
    )

    def go_off() -> None:
        wait_until(when, every_s=READ_EVERY_S)
        alarms.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="test")

    thread = threading.Thread(target=go_off)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def raised(world: World, name: str = "kiln-errors") -> None:
    """An alarm has gone off."""
    with alarm(world, lambda: True, name):
        pass
