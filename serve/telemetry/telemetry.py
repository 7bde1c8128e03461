"""Telemetry of the service over OTLP: metrics, traces and logs.

    telemetry = Telemetry.start(settings, predictor.metadata)
    app = create_app(predictor, settings, observer=telemetry.observer)
    ...
    telemetry.close()

Other parts of the service add observers, or instruments that are read at each export:

    telemetry.add_observer(monitor)
    telemetry.instrument(lambda meter: register_instruments(meter, monitor))
"""

import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from common.model.artifact import ArtifactMetadata
from common.resources import uptime_s
from serve.exchange import Exchange, Observer
from serve.settings import Settings
from serve.telemetry import instruments as inst
from serve.telemetry.export import ExportSettings
from serve.telemetry.logs import AccessLog, ExportHandler
from serve.telemetry.recorder import Collected, Point, Recorder, RequestObserver

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter

    from serve.telemetry.providers import Providers

logger = logging.getLogger(__name__)

CLOSE_S = 3.0  # for the rest, when the process ends

Register = Callable[["Meter"], None]


class Observers:
    """An `Observer` that calls others in order; logs each one's first failure."""

    def __init__(self) -> None:
        self.first: Observer | None = None  # the service's own, which `renew` replaces
        self._added: tuple[Observer, ...] = ()
        self._failed: set[int] = set()

    def add(self, observer: Observer) -> None:
        """Adds an observer of every request from now on."""
        self._added = (*self._added, observer)

    def __call__(self, exchange: Exchange, method: str, path: str) -> None:
        for observer in (self.first, *self._added) if self.first else self._added:
            try:
                observer(exchange, method, path)
            except Exception:
                self._report(observer)

    def _report(self, observer: Observer) -> None:
        if id(observer) not in self._failed:
            self._failed.add(id(observer))
            logger.exception(
                "an observer of requests failed; it is not logged again",
                extra={"observer": repr(observer)},
            )


class Telemetry:
    """Off unless a standard OTEL_ variable names an endpoint; only then OpenTelemetry is
    imported.
    """

    def __init__(
        self, export: ExportSettings, settings: Settings, metadata: ArtifactMetadata
    ) -> None:
        self._export, self._settings, self._metadata = export, settings, metadata
        self._observers = Observers()
        self._registers: list[Register] = []
        self._providers: Providers | None = None
        self._log_handler: ExportHandler | None = None
        self._start_s = uptime_s()
        if export.signals:
            self._open()
        if settings.access_log != "off":
            self.add_observer(AccessLog(errors_only=settings.access_log == "errors"))

    @classmethod
    def start(
        cls, settings: Settings, metadata: ArtifactMetadata, environ: Mapping[str, str] = os.environ
    ) -> "Telemetry":
        """Telemetry as configured by the environment.

        Raises:
            SettingsError: names every invalid variable.
        """
        return cls(ExportSettings.from_environment(environ), settings, metadata)

    @property
    def is_on(self) -> bool:
        """Whether anything is exported."""
        return self._providers is not None

    @property
    def observer(self) -> Observer:
        """For `create_app`; also calls observers that are added later."""
        return self._observers

    def add_observer(self, observer: Observer) -> None:
        """Adds an observer of every request, whether or not telemetry is on."""
        self._observers.add(observer)

    def instrument(self, register: Register) -> None:
        """Calls `register` to create observable instruments: now, and again after each `renew`."""
        self._registers.append(register)
        if self._providers is not None:
            register(self._providers.meter)

    def flush(self, deadline_s: float) -> bool:
        """Sends metrics, traces and logs concurrently; False on timeout."""
        return self._providers is None or self._providers.flush(deadline_s)

    def flush_due(self, deadline_s: float) -> bool:
        """Sends waiting traces and logs, and metrics if their interval has passed."""
        return self._providers is None or self._providers.flush_due(deadline_s)

    def renew(self) -> None:
        """Turns a copy of the process, after a fork or from a snapshot, into a new instance.

        It opens new connections, and does not send the original's pending items.
        """
        if self._providers is not None:
            self._close_logs()
            self._providers.abandon()
            self._start_s = 0.0  # the copy has its own start time
            self._open()

    def close(self, deadline_s: float = CLOSE_S) -> None:
        """Sends the rest and stops the exporters, within the timeout."""
        if self._providers is not None:
            self._close_logs()
            self._providers.close(deadline_s)
            self._providers = None
            self._observers.first = None

    def _open(self) -> None:
        from serve.telemetry.providers import Providers  # slow to import

        recorder = Recorder(self._metadata.classes)
        constants = _constants(self._metadata, self._start_s)
        providers = Providers(self._export, _resource(self._metadata), recorder, constants)
        trace = providers.trace if providers.traces else None
        self._observers.first = RequestObserver(recorder, self._export.sampler, trace)
        for register in self._registers:
            register(providers.meter)
        if providers.log_queue is not None:
            self._log_handler = ExportHandler(providers.log_queue)
            logging.getLogger().addHandler(self._log_handler)
        self._providers = providers

    def _close_logs(self) -> None:
        if self._log_handler is not None:
            logging.getLogger().removeHandler(self._log_handler)
            self._log_handler = None


def _resource(metadata: ArtifactMetadata) -> dict[str, str]:
    """Attributes of all signals of a process."""
    return {
        "service.name": "kiln",
        "service.version": metadata.git_revision,
        "kiln.model.name": metadata.name,
        "kiln.model.version": metadata.version,
    }


def _constants(metadata: ArtifactMetadata, start_s: float) -> list[Collected]:
    model = {
        "name": metadata.name,
        "version": metadata.version,
        "quantisation": metadata.quantisation,
        "revision": metadata.git_revision,
    }
    return [
        (inst.MODEL_INFO, [Point(model, 1)]),
        (inst.COLD_STARTS, [Point({}, 1)]),
        (inst.COLD_START_DURATION, [Point({}, start_s)]),
    ]
