"""AWS on loopback: moto's server, and Lambda functions that really run.

    with Cloud(folder, launch) as cloud:
        boto3.client("lambda", endpoint_url=cloud.endpoint_url).invoke(FunctionName="kiln:live")

One process, because moto keeps its state in memory: the data plane reads functions, versions and
alias weights where the control plane put them, and no second copy can differ. So there is one
cloud in a process at a time.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from moto.core.base_backend import BackendDict
from moto.core.model_instances import reset_model_data
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

from infra.twin.cloud.alarms import AlarmWatch
from infra.twin.cloud.data_plane import RETRY_AFTER_S, DataPlane, Observe, ignore
from infra.twin.cloud.fleet import KEEP_IDLE_S, Fleet, Launch
from infra.twin.cloud.gateway import Gateway, listening
from infra.twin.cloud.lambda_api import LambdaApi
from infra.twin.cloud.logs import LogWriter
from infra.twin.cloud.metrics import MetricWriter
from infra.twin.cloud.repairs import repaired

DEFAULT_REGION = "eu-central-1"
_FLUSH_EVERY_S = 0.5
_SWITCH_S = 0.0005


class Cloud:
    """The services, for as long as the block runs.

    Attributes:
        endpoint_url: of every AWS service.
        url: of the HTTP API in front of the function that the API calls, or else of the one that
            has the alias `live`.
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
        observe: Observe = ignore,
    ) -> None:
        """
        Args:
            folder: gets `requests.log`: the calls of AWS's APIs, and what moto could not do.
            launch: starts a function's process from an image's digest and its environment.
            region: of the gateway, and of callers that do not say.
            seed: of the draws between an alias's versions; None draws anew each time.
            keep_idle_s: an environment without a call for so long is ended.
            retry_after_s: pauses before an asynchronous call that failed is tried again.
            alarms_every_s: alarms are evaluated so often; on AWS once a minute.
            observe: is told of every call of a function when it has ended.
        """
        self.folder, self.region = folder, region
        self._launch, self._seed, self._keep_idle_s = launch, seed, keep_idle_s
        self._retry_after_s, self._alarms_every_s = retry_after_s, alarms_every_s
        self._observe = observe
        self._stack = ExitStack()

    @property
    def environment(self) -> dict[str, str]:
        """What boto3, Terraform and commands need to find it."""
        return {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_REGION": self.region,
            "AWS_SECRET_ACCESS_KEY": "testing",
        }

    def flush(self) -> None:
        """Logs and metrics of all calls so far can be read when it returns."""
        self._logs.flush()
        self._metrics.flush()

    def forget(self, before_s: float) -> None:
        """Drops older logs and metrics of calls: for hours of them there is no room."""
        self._logs.forget(before_s)
        self._metrics.forget(before_s)

    def environments(self) -> Mapping[tuple[str, str], int]:
        """How many execution environments are warm and idle, by function and version."""
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
            stack.enter_context(_regularly(self.flush, _FLUSH_EVERY_S))
            alarms = AlarmWatch(self.region, store)
            stack.enter_context(_regularly(alarms.look, self._alarms_every_s))
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
    """A call passes through several threads: none waits long for one that computes."""
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
    # What moto lacks ends in a traceback, and as an answer 500: who called says what it means.
    server.log = lambda type, message, *args: log.write(f"{message % args}\n")  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def _regularly(work: Any, every_s: float) -> Iterator[None]:
    ending = threading.Event()

    def run() -> None:
        while not ending.wait(every_s):
            work()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()
        work()
