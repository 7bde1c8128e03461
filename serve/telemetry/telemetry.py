"""What the service tells about itself, over OTLP: metrics, traces and logs.

    telemetry = Telemetry.start(settings, predictor.metadata)
    app = create_app(predictor, settings, observer=telemetry.observer)
    ...
    telemetry.close()

Whoever knows more of the service adds an observer, or instruments that are read at each export:

    telemetry.add_observer(monitor)
    telemetry.instrument(lambda meter: register_instruments(meter, monitor))
"""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from serve.call import Observer
from serve.contract.artifact import ArtifactMetadata
from serve.settings import Settings
from serve.telemetry.choices import Choices
from serve.telemetry.observers import Observers

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter

    from serve.telemetry.providers import Providers

CLOSE_S = 3.0  # for what is left when the process ends

Reading = tuple[float, Mapping[str, str]]  # value, labels
Register = Callable[["Meter"], None]


class Telemetry:
    """Off, unless a standard OTEL_ variable names an endpoint; then OpenTelemetry is loaded."""

    def __init__(
        self, choices: Choices, settings: Settings, metadata: ArtifactMetadata | None = None
    ) -> None:
        self._choices, self._settings, self._metadata = choices, settings, metadata
        self._observers = Observers()
        self._registers: list[Register] = []
        self._providers: Providers | None = None
        if choices.signals:
            self._open()

    @classmethod
    def start(
        cls,
        settings: Settings,
        metadata: ArtifactMetadata | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> "Telemetry":
        """Telemetry as the environment has it.

        Raises:
            SettingsError: names every variable that is wrong.
        """
        return cls(Choices.from_environment(environ), settings, metadata)

    @property
    def is_on(self) -> bool:
        """Whether anything is exported."""
        return self._providers is not None

    @property
    def observer(self) -> Observer:
        """For `create_app`; also tells those that are added later."""
        return self._observers

    def add_observer(self, observer: Observer) -> None:
        """Has another one told of every request, whether or not telemetry is on."""
        self._observers.add(observer)

    def instrument(self, register: Register) -> None:
        """Has `register` create observable instruments: now, and again after each `renew`."""
        self._registers.append(register)
        if self._providers is not None:
            register(self._providers.meter)

    def observe_gauge(self, name: str, read: Callable[[], Iterable[Reading]]) -> None:
        """A gauge whose values, with their labels, are read at each export."""

        def register(meter: "Meter") -> None:
            from opentelemetry.metrics import Observation

            meter.create_observable_gauge(
                name, [lambda _: [Observation(value, labels) for value, labels in read()]]
            )

        self.instrument(register)

    def flush(self, deadline_s: float) -> bool:
        """Sends what is there: metrics, traces and logs at once; False if it took too long."""
        return self._providers is None or self._providers.flush(deadline_s)

    def renew(self) -> None:
        """In a copy of the process, as after a fork or from a snapshot: a new instance of its own.

        It has new connections, and it does not send what the original was about to send.
        """
        if self._providers is not None:
            self._providers.abandon()
            self._open()

    def close(self, deadline_s: float = CLOSE_S) -> None:
        """Sends what is left, and ends the exporters, in so much time."""
        if self._providers is not None:
            self._providers.close(deadline_s)
            self._providers = None

    def _open(self) -> None:
        from serve.telemetry.providers import Providers  # 0.3 s that only those pay who export

        self._providers = Providers(self._choices, _resource(self._metadata))
        for register in self._registers:
            register(self._providers.meter)


def _resource(metadata: ArtifactMetadata | None) -> dict[str, str]:
    """What is the same for all signals of a process; OTEL_RESOURCE_ATTRIBUTES adds to it."""
    facts = {"service.name": "kiln"}
    if metadata is not None:
        facts |= {
            "kiln.model.name": metadata.name,
            "kiln.model.version": metadata.version,
            "service.version": metadata.git_revision,
        }
    return facts
