"""One environment: all that its commands and releases use, and where they report.

Reports go to the terminal, into metrics and to subscribers of the topic.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from common.programs import this_user
from common.terminal import Progress
from infra.release.aws.clients import Aws, Clock, WallClock, explained
from infra.release.aws.function import LambdaFunction
from infra.release.errors import ReleaseError
from infra.release.evidence.collector import Collector
from infra.release.rollout.preflight import alarm_states
from infra.release.settings import Settings, Step
from infra.release.state.journal import Journal
from infra.release.state.lease import Lease
from infra.release.state.ledger import Decision, Ledger
from infra.release.verdict.engine import Verdict
from infra.terraform.service import ServiceOutputs

_COLOURS = {"promote": "green", "hold": "yellow", "roll back": "red"}


class Timeline:
    """Shows events, and what is waited for, on a terminal or in a log."""

    def __init__(self, console: Console) -> None:
        self._console, self._start = console, time.monotonic()
        self._steps: Sequence[Step] = ()
        self._place, self._waiting, self._live = -1, "", Live(console=console, transient=True)
        self._progress: Progress | None = None

    @contextmanager
    def shown(self, what: str = "releasing") -> Iterator[Timeline]:
        """Updates one line of a terminal; a log gets a line about `what` every 20 s."""
        if self._console.is_terminal:
            with self._live:
                yield self
            return
        with Progress(what, console=self._console) as self._progress:
            yield self

    def event(self, text: str, style: str = "") -> None:
        """Prints what happened, with the time since the beginning."""
        elapsed = time.monotonic() - self._start
        text = f"[{style}]{escape(text)}[/]" if style else escape(text)
        self._console.print(f"[dim]{elapsed:7.1f} s[/]  {text}", highlight=False, soft_wrap=True)

    def wait(self, text: str) -> None:
        """Shows what the command is waiting for."""
        self._waiting = text
        if self._progress:
            self._progress.update(detail=text)
        self._refresh()

    def plan(self, steps: Sequence[Step], place: int) -> None:
        """Shows the steps, and the place of the current one: their number once all are done."""
        self._steps, self._place = steps, place
        self._refresh()

    def verdict(self, verdict: Verdict) -> None:
        """Prints the decision and its reasons."""
        decision = verdict.decision
        self.event(f"verdict: {decision}", f"bold {_COLOURS[decision]}")
        for reason in verdict.reasons:
            needs = "needs " if decision == "hold" else ""
            name, _, words = reason.partition(": ")
            self._console.print(
                f"             [dim]{escape(name)}: {needs}{escape(words)}[/]",
                highlight=False,
                soft_wrap=True,
            )

    def _refresh(self) -> None:
        if self._live.is_started:
            grid = Table.grid(padding=(0, 1))
            bar = [self._mark(n, step) for n, step in enumerate((*self._steps, None))]
            line = Text.from_markup("  ".join(bar)) if self._steps else Text()
            grid.add_row(Spinner("dots"), line, Text(self._waiting, style="dim"))
            self._live.update(grid, refresh=True)

    def _mark(self, place: int, step: Step | None) -> str:
        text = "100 %" if step is None else f"{100 * step.weight:.4g} %"
        if place < self._place:
            return f"[green]{text} ✓[/]"
        return f"[bold]{text} ▶[/]" if place == self._place else f"[dim]{text}[/]"


Value = tuple[str, float, Mapping[str, str]]  # name, value, attributes
_TIMEOUT_S = 5
NAMESPACE = "Kiln"
_UNIT = "1"  # of all of them, as the catalogue has it: Prometheus' names end with `_ratio` by it
VERDICTS = {"roll back": -1, "hold": 0, "promote": 1}


def export(values: Sequence[Value]) -> bool:
    """Sends them as gauges; False if the collector did not take them. True without a collector."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return True
    provider, meter = _provider()
    for name, value, attributes in values:
        meter.create_gauge(name, _UNIT).set(value, dict(attributes))
    return bool(provider.force_flush(_TIMEOUT_S * 1000))


@cache
def _provider() -> tuple[Any, Any]:
    """Loads the SDK on demand: its import takes a third of a second."""
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource

    exporter = OTLPMetricExporter(timeout=_TIMEOUT_S)
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=float("inf"))
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "kiln")})
    provider = MeterProvider(metric_readers=[reader], resource=resource)
    return provider, provider.get_meter("kiln.release")


class Notices:
    """Metrics after each decision and a message at the end of a release.

    Neither decides anything, so neither may fail a release: what could not be sent is reported.
    """

    def __init__(self, aws: Aws, function: str, topic: str, warn: Callable[[str], None]) -> None:
        self._aws, self._function, self._topic, self._warn = aws, function, topic, warn

    def measure(
        self,
        step: int,
        weight: float,
        verdict: str | None = None,
        accuracy: Mapping[str, float] | None = None,
    ) -> None:
        """Puts the catalogue's release metrics: steps from 1, 0 when there is no release.

        `accuracy` on golden images is by version.
        """
        values: list[Value] = [
            ("kiln.release.step", float(step), {}),
            ("kiln.release.candidate_weight", weight, {}),
        ]
        if verdict in VERDICTS:
            values.append(("kiln.release.verdict", float(VERDICTS[str(verdict)]), {}))
        for version, share in (accuracy or {}).items():
            values.append(("kiln.golden.accuracy", share, {"faas.version": version}))
        data = [_datum(*value) for value in values]
        self._try(
            lambda: self._aws.cloudwatch.put_metric_data(Namespace=NAMESPACE, MetricData=data)
        )
        if not export(values):
            self._warn("metrics not exported: the collector rejects them")

    def tell(self, env: str, decision: Decision) -> None:
        """Publishes how a release ended."""
        if not self._topic:
            return
        subject, text = message(env, self._function, decision)
        self._try(
            lambda: self._aws.sns.publish(TopicArn=self._topic, Subject=subject, Message=text)
        )

    def _try(self, send: Callable[[], Any]) -> None:
        try:
            with explained("notices"):
                send()
        except ReleaseError as exc:
            self._warn(f"metrics or notification not sent: {exc}")


def _datum(name: str, value: float, labels: Mapping[str, str]) -> dict[str, Any]:
    named = {"service.name": "kiln", **labels}
    return {
        "MetricName": name,
        "Value": value,
        "Unit": "None",
        "Dimensions": [{"Name": label, "Value": text} for label, text in named.items()],
    }


def message(env: str, function: str, decision: Decision) -> tuple[str, str]:
    """Subject (100 characters of ASCII at most, as SNS asks) and text of how a release ended."""
    happened = {
        "promoted": f"version {decision.to_version} of {function} is live",
        "rolled back": f"{function} is back on version {decision.from_version}",
        "failed": f"a release of {function} failed before any traffic",
        "stop": f"a release of {function} waits for a decision",
    }.get(decision.kind, f"{decision.kind}: {function}")
    subject = f"[{env}] {happened}"
    lines = [
        f"{env}: {happened}.",
        "",
        f"image    {decision.to_digest}",
        f"model    {decision.model_version or 'unknown'}",
        f"before   version {decision.from_version or 'none'}, {decision.from_digest or 'no image'}",
        f"by       {decision.who}, {decision.when}",
        f"release  {decision.release}",
        "",
        *([f"why: {decision.why}"] if decision.why else []),
        f"bazel run //infra:status -- --env {env}",
    ]
    return subject.encode("ascii", "replace").decode()[:100], "\n".join(lines)


@dataclass(frozen=True)
class ReleaseContext:
    """All that a command needs, made from Terraform's outputs of one environment."""

    env: str
    who: str
    settings: Settings
    outputs: ServiceOutputs
    aws: Aws
    function: LambdaFunction
    ledger: Ledger
    lease: Lease
    collector: Collector
    notices: Notices
    timeline: Timeline
    clock: Clock

    @classmethod
    def open(
        cls, env: str, settings: Settings, aws: Aws, outputs: ServiceOutputs, console: Console
    ) -> ReleaseContext:
        """Makes no AWS call yet; events are shown on the console."""
        function = LambdaFunction(aws, outputs.function_name, outputs.alias_name)
        store = aws.bucket(outputs.ledger_bucket, outputs.ledger_prefix)
        timeline = Timeline(console)

        def warn(text: str) -> None:
            timeline.event(text, "yellow")

        return cls(
            env=env,
            who=this_user(),
            settings=settings,
            outputs=outputs,
            aws=aws,
            function=function,
            ledger=Ledger(store),
            lease=Lease(store, settings.lease_s),
            collector=Collector(aws, function.name, function.alias_name),
            notices=Notices(aws, function.name, outputs.sns_topic_arn, warn),
            timeline=timeline,
            clock=WallClock(),
        )

    def journal(self) -> Journal:
        """The ledger as it is now."""
        return Journal(self.ledger, self.who, self.clock)

    def raised_alarms(self, but: Collection[str] = ()) -> list[str]:
        """Alarms of the environment that are raised now."""
        states = alarm_states(self.aws, [n for n in self.outputs.alarm_names if n not in but])
        return sorted(name for name, state in states.items() if state == "ALARM")
