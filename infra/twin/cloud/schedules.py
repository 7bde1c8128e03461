"""Periodic work, above all EventBridge's schedule rules: moto stores them, and this module invokes
their functions.

https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-scheduled-rule-pattern.html
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from moto.events.models import Rule, events_backends

from infra.twin.cloud.data_plane import DataPlane
from infra.twin.cloud.targets import ACCOUNT, UnknownFunction

logger = logging.getLogger(__name__)
_RATE = re.compile(r"rate\((?P<number>\d+) (?P<unit>minute|hour|day)s?\)")
_MINUTES = {"minute": 1, "hour": 60, "day": 24 * 60}


@contextmanager
def regularly(work: Callable[[], object], every_s: float) -> Iterator[None]:
    """Repeats the work periodically, and once more at the end."""
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
