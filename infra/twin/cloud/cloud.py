"""AWS on loopback: moto's server, with Lambda functions that really run and schedules that fire.

    with Cloud(folder, launch) as cloud:
        boto3.client("lambda", endpoint_url=cloud.endpoint_url).invoke(FunctionName="kiln:live")

A single process, since moto keeps its state in memory: the data plane reads functions, versions and
alias weights directly from the control plane. So there is at most one cloud per process.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from unittest.mock import patch

from moto.awslambda.exceptions import PreconditionFailedException
from moto.awslambda.models import LambdaAlias, LambdaFunction, LambdaStorage
from moto.awslambda.responses import LambdaResponse
from moto.cloudwatch.models import Dimension, MetricDatum, Statistics
from moto.core.base_backend import BackendDict
from moto.core.model_instances import reset_model_data
from moto.events.models import Rule, events_backends
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

from common.programs import in_threads, serving
from infra.twin.cloud.alarms import AlarmWatch
from infra.twin.cloud.data_plane import RETRY_AFTER_S, DataPlane, LambdaApi, Observe, ignore
from infra.twin.cloud.fleet import KEEP_IDLE_S, Fleet, Launch
from infra.twin.cloud.gateway import Gateway, listening
from infra.twin.cloud.metrics import LogWriter, MetricWriter, SampledDatum
from infra.twin.cloud.targets import ACCOUNT, UnknownFunction


@contextmanager
def repaired() -> Iterator[None]:
    """moto with these fixes, for the duration of a block."""
    publish, code, statistic, move, answer_move = (
        LambdaStorage.publish_version,
        LambdaFunction.get_code,
        Statistics.get_statistics_for_type,
        LambdaAlias.update,
        LambdaResponse.update_alias,
    )
    one_move = threading.Lock()

    def publish_version(self: Any, name_or_arn: str, description: str = "") -> Any:
        """moto's versions share one code description, so updating one would change all."""
        version = publish(self, name_or_arn, description)
        if version is not None:
            version.code = copy.deepcopy(version.code)
        return version

    def get_code(self: Any) -> dict[str, Any]:
        """moto takes the first colon as that of the tag, also in `repository@sha256:…`."""
        answer = code(self)
        if uri := answer.get("Code", {}).get("ImageUri"):
            repository = uri.partition("@")[0].rpartition("/")
            bare = f"{repository[0]}/{repository[2].partition(':')[0]}"
            answer["Code"]["ResolvedImageUri"] = f"{bare}@sha256:{self.code_sha_256}"
        return answer

    def get_statistics_for_type(self: Any, stat: str) -> Any:
        """Adds percentiles, which moto lacks."""
        if stat.startswith("p") and stat[1:].replace(".", "", 1).isdigit():
            return percentile(list(_values(self.metric_data)), float(stat[1:]))
        return statistic(self, stat)

    def update(self: Any, *changes: Any) -> None:
        """moto never changes an alias's revision id."""
        move(self, *changes)
        self.revision_id = str(uuid.uuid4())

    def update_alias(self: Any) -> Any:
        """moto ignores the revision id in requests."""
        expected = json.loads(self.body).get("RevisionId")
        function, name = self.path.split("/")[-3], self.path.split("/")[-1]
        with one_move:
            if expected and expected != self.backend.get_alias(name, function).revision_id:
                raise PreconditionFailedException(
                    "The RevisionId provided does not match the latest RevisionId. Call the "
                    "GetFunction or the GetAlias API to retrieve the latest RevisionId"
                )
            return answer_move(self)

    def is_before(self: Dimension, other: Dimension) -> bool:
        """moto's ordering of dimensions is not total, so equal sets may sort differently."""
        return (self.name or "", self.value or "") < (other.name or "", other.value or "")

    with ExitStack() as stack:
        for replaced, name, by in (
            (LambdaStorage, "publish_version", publish_version),
            (LambdaFunction, "get_code", get_code),
            (Statistics, "get_statistics_for_type", get_statistics_for_type),
            (Dimension, "__lt__", is_before),
            (LambdaAlias, "update", update),
            (LambdaResponse, "update_alias", update_alias),
        ):
            stack.enter_context(patch.object(replaced, name, by))
        # Images must be in the registry before a function can use them.
        stack.enter_context(patch.dict(os.environ, {"MOTO_LAMBDA_STUB_ECR": "false"}))
        yield


def percentile(values: list[float], percent: float) -> float | None:
    """Nearest-rank percentile; None without values."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def _values(data: list[Any]) -> Iterator[float]:
    for datum in data:
        if isinstance(datum, SampledDatum):
            yield from datum.values
        elif isinstance(datum, MetricDatum):
            yield datum.value


DEFAULT_REGION = "eu-central-1"
_FLUSH_EVERY_S = 0.5
_SWITCH_S = 0.0005


class Cloud:
    """The services, for the duration of the block.

    Attributes:
        endpoint_url: endpoint of all AWS services.
        url: of the HTTP API in front of the function that it integrates, or else of the function
            with the alias `live`.
    """

    endpoint_url: str
    url: str

    def __init__(
        self,
        folder: Path,
        launch: Launch,
        region: str = DEFAULT_REGION,
        seed: int | None = None,
        keep_idle_s: float = KEEP_IDLE_S,
        retry_after_s: Sequence[float] = RETRY_AFTER_S,
        alarms_every_s: float = 5.0,
        minute_s: float = 60.0,
        observe: Observe = ignore,
    ) -> None:
        """
        Args:
            folder: receives `requests.log`: the AWS API calls, and moto's errors.
            launch: starts a function's process from an image digest and environment variables.
            region: of the gateway, and the callers' default.
            seed: for choosing between an alias's versions; None: random.
            keep_idle_s: idle time after which an environment is terminated.
            retry_after_s: delays before retries of failed asynchronous invocations.
            alarms_every_s: evaluation interval of alarms; a minute on AWS.
            minute_s: duration of a minute in EventBridge schedules.
            observe: called after every invocation.
        """
        self.folder, self.region = folder, region
        self._launch, self._seed, self._keep_idle_s = launch, seed, keep_idle_s
        self._retry_after_s, self._alarms_every_s = retry_after_s, alarms_every_s
        self._minute_s, self._observe = minute_s, observe
        self._stack = ExitStack()

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which boto3, Terraform and commands find it."""
        return {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_REGION": self.region,
            "AWS_SECRET_ACCESS_KEY": "testing",
        }

    def flush(self) -> None:
        """Makes logs and metrics of all calls so far readable."""
        self._logs.flush()
        self._metrics.flush()

    def forget(self, before_s: float) -> None:
        """Drops older logs and metrics of calls, to save memory."""
        self._logs.forget(before_s)
        self._metrics.forget(before_s)

    def environments(self) -> Mapping[tuple[str, str], int]:
        """Warm, idle execution environments, by function and version."""
        return self._fleet.environments()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(_quick_switches())
            stack.enter_context(repaired())
            _forget_everything()
            stack.callback(_forget_everything)
            store = threading.RLock()
            self._logs, self._metrics = LogWriter(store), MetricWriter(store)
            moto = DomainDispatcherApplication(create_backend_app)
            # moto lists its own folder for each request.
            moto.get_backend_for_host = cache(moto.get_backend_for_host)  # type: ignore[method-assign]
            log = stack.enter_context((self.folder / "requests.log").open("w", buffering=1))
            lambda_api = LambdaApi(moto, self.region, store)
            self.endpoint_url = stack.enter_context(_serving(lambda_api, log))
            self._fleet = Fleet(self._launch, self.endpoint_url, self._keep_idle_s)
            stack.callback(self._fleet.close)
            data_plane = DataPlane(
                self._fleet,
                self._logs,
                self._metrics,
                self._seed,
                self._retry_after_s,
                self._observe,
            )
            stack.callback(data_plane.close)
            lambda_api.data_plane = data_plane
            stack.enter_context(regularly(self.flush, _FLUSH_EVERY_S))
            alarms = AlarmWatch(self.region, store)
            stack.enter_context(regularly(alarms.look, self._alarms_every_s))
            schedules = Schedules(self.region, data_plane, self._minute_s)
            stack.enter_context(regularly(schedules.look, min(1.0, self._minute_s / 2)))
            gateway = Gateway(data_plane, self._metrics, self.region)
            self.url = stack.enter_context(listening(gateway))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()


def _forget_everything() -> None:
    BackendDict.reset()
    reset_model_data()


@contextmanager
def _quick_switches() -> Iterator[None]:
    """A shorter GIL switch interval: calls pass through several threads, which should not wait for
    one that computes.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextmanager
def _serving(application: LambdaApi, log: Any) -> Iterator[str]:
    class Handler(MotoRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:
            log.write(f"{self.log_date_time_string()} {message % args}\n")

    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
    # Unsupported calls raise in moto and answer 500; callers report what that means.
    server.log = lambda type, message, *args: log.write(f"{message % args}\n")  # type: ignore[method-assign]
    with serving(server) as url:
        yield url


logger = logging.getLogger(__name__)
_RATE = re.compile(r"rate\((?P<number>\d+) (?P<unit>minute|hour|day)s?\)")
_MINUTES = {"minute": 1, "hour": 60, "day": 24 * 60}


@contextmanager
def regularly(work: Callable[[], object], every_s: float) -> Iterator[None]:
    """Repeats the work periodically, and once more at the end."""

    def run(ending: threading.Event) -> None:
        while not ending.wait(every_s):
            work()

    try:
        with in_threads(run):
            yield
    finally:
        work()


class Schedules:
    """Invokes the functions of all enabled `rate(…)` rules of a region."""

    def __init__(self, region: str, data_plane: DataPlane, minute_s: float = 60.0) -> None:
        """`minute_s` is the duration of a rule's minute here."""
        self._region, self._data_plane, self._minute_s = region, data_plane, minute_s
        self._due_s: dict[str, float] = {}  # by the rule's ARN

    def look(self) -> None:
        """Invokes what is due; a rule first fires one period after its creation."""
        now = time.monotonic()
        buses = list(events_backends[ACCOUNT][self._region].event_buses.values())
        for rule in [rule for bus in buses for rule in list(bus.rules.values())]:
            period_s = self._period_s(rule)
            if period_s is None or rule.state != "ENABLED":
                self._due_s.pop(rule.arn, None)
            elif now >= self._due_s.setdefault(rule.arn, now + period_s):
                self._due_s[rule.arn] = now + period_s
                self._invoke(rule)

    def _period_s(self, rule: Rule) -> float | None:
        found = _RATE.fullmatch(rule.scheduled_expression or "")
        return int(found["number"]) * _MINUTES[found["unit"]] * self._minute_s if found else None

    def _invoke(self, rule: Rule) -> None:
        for target in rule.targets:
            event = target.get("Input") or json.dumps(_event(rule, self._region))
            try:
                self._data_plane.invoke_later(
                    self._region, target["Arn"], None, event.encode("utf-8")
                )
            except UnknownFunction as error:
                logger.warning("rule %s has no function to invoke: %s", rule.name, error)


def _event(rule: Rule, region: str) -> dict[str, Any]:
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": ACCOUNT,
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": region,
        "resources": [rule.arn],
        "detail": {},
    }
