"""One environment and everything that its commands and its releases use."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rich.console import Console

from common.programs import this_user
from infra.release.aws.clients import Aws, Clock, WallClock
from infra.release.aws.function import LambdaFunction
from infra.release.evidence.collector import Collector
from infra.release.rollout.preflight import alarm_states
from infra.release.rollout.reporting import Notices, Timeline
from infra.release.settings import Settings
from infra.release.state.journal import Journal
from infra.release.state.lease import Lease
from infra.release.state.ledger import Ledger
from infra.terraform.service import ServiceOutputs


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
