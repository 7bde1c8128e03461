"""CloudWatch alarms: moto stores them; this evaluates them and notifies their topics.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/AlarmThatSendsEmail.html
"""

from __future__ import annotations

import ast
import json
import logging
import operator
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from moto.cloudwatch.models import (
    Alarm,
    CloudWatchBackend,
    Dimension,
    MetricDatumBase,
    Statistics,
    cloudwatch_backends,
)
from moto.sns.models import sns_backends

from infra.twin.cloud.targets import ACCOUNT

Value = float | None  # None: no data in that period
Values = Sequence[Value]  # one value per period
_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Div: operator.truediv,
    ast.Mult: operator.mul,
    ast.Pow: operator.pow,
    ast.Sub: operator.sub,
}
_REDUCTIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "AVG": lambda values: sum(values) / len(values),
    "MAX": max,
    "MIN": min,
    "SUM": sum,
}


class UnknownExpression(ValueError):
    """The expression uses an unsupported feature."""


def evaluate(expression: str, series: Mapping[str, Values], periods: int) -> Values:
    """The expression's value in each period; None where an operand is missing, or on division by 0.

    Raises:
        UnknownExpression: it does not parse, or uses an unsupported feature.
    """
    try:
        tree = ast.parse(expression, mode="eval").body
    except SyntaxError as error:
        raise UnknownExpression(expression) from error
    return [_value(tree, series, place) for place in range(periods)]


def _value(node: ast.expr, series: Mapping[str, Values], place: int) -> Value:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name) if name in series:
            return series[name][place]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = _value(operand, series, place)
            return None if value is None else -value
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            values = (_value(left, series, place), _value(right, series, place))
            return _combined(_OPERATORS[type(op)], values)
        case ast.Call(func=ast.Name(id="FILL"), args=[filled, ast.Constant() as by]):
            value = _value(filled, series, place)
            return _value(by, series, place) if value is None else value
        case ast.Call(func=ast.Name(id=name), args=[ast.List(elts=operands)]) if (
            name in _REDUCTIONS
        ):
            found = [_value(operand, series, place) for operand in operands]
            there = [value for value in found if value is not None]
            return _REDUCTIONS[name](there) if there else None
    raise UnknownExpression(ast.unparse(node))


def _combined(combine: Callable[[float, float], float], operands: tuple[Value, Value]) -> Value:
    left, right = operands
    if left is None or right is None:
        return None
    try:
        return combine(left, right)
    except ZeroDivisionError:
        return None


logger = logging.getLogger(__name__)
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "GreaterThanOrEqualToThreshold": operator.ge,
    "GreaterThanThreshold": operator.gt,
    "LessThanOrEqualToThreshold": operator.le,
    "LessThanThreshold": operator.lt,
}
_Key = tuple[str, str, frozenset[tuple[str, str]]]


class AlarmWatch:
    """Evaluates all alarms of a region on one metric or one expression."""

    def __init__(self, region: str, store: threading.RLock) -> None:
        self._region, self._store = region, store
        self._not_understood: set[str] = set()

    def look(self) -> None:
        """Updates the state of every alarm, and notifies the topics of those that changed."""
        backend = cloudwatch_backends[ACCOUNT][self._region]
        with self._store:
            changes = self._changes(backend)
        for alarm, before in changes:  # without the lock: subscribers may call moto
            self._tell(alarm, before)

    def _changes(self, backend: CloudWatchBackend) -> list[tuple[Alarm, str]]:
        alarms = [alarm for alarm in backend.alarms.values() if not alarm.rule]
        now = time.time()
        reach = max((_reach_s(alarm) for alarm in alarms), default=0)
        data = _by_series(backend, now - reach)
        changes = []
        for alarm in alarms:
            try:
                values = _values(alarm, data, now)
            except UnknownExpression as error:
                if alarm.name not in self._not_understood:
                    self._not_understood.add(alarm.name)
                    logger.warning("alarm %s is never raised: %s", alarm.name, error)
                continue
            state, reason = judge(alarm, values)
            before = str(alarm.state_value)
            if state != before:
                alarm.update_state(reason, json.dumps({"recentDatapoints": list(values)}), state)
                changes.append((alarm, before))
        return changes

    def _tell(self, alarm: Alarm, before: str) -> None:
        actions = {
            "ALARM": alarm.alarm_actions,
            "INSUFFICIENT_DATA": alarm.insufficient_data_actions,
            "OK": alarm.ok_actions,
        }[alarm.state_value]
        if not alarm.actions_enabled:
            return
        message = {
            "AlarmName": alarm.name,
            "AlarmDescription": alarm.description,
            "AWSAccountId": ACCOUNT,
            "NewStateValue": alarm.state_value,
            "NewStateReason": alarm.state_reason,
            "StateChangeTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f+0000"),
            "Region": self._region,
            "AlarmArn": alarm.alarm_arn,
            "OldStateValue": before,
        }
        for action in actions or ():
            if action.split(":")[2] != "sns":
                continue
            subject = f'{alarm.state_value}: "{alarm.name}" in {self._region}'
            try:
                sns_backends[ACCOUNT][self._region].publish(
                    message=json.dumps(message), arn=action, subject=subject[:100]
                )
            except Exception as error:  # a deleted topic, or an unavailable subscriber
                logger.warning("alarm %s could not be told to %s: %s", alarm.name, action, error)


def judge(alarm: Alarm, values: Values) -> tuple[str, str]:
    """State and reason from the values of the last periods, newest last."""
    needed = int(alarm.datapoints_to_alarm or alarm.evaluation_periods)
    there = [value for value in values if value is not None]
    compare = _COMPARE[alarm.comparison_operator]
    breaching = sum(compare(value, float(alarm.threshold)) for value in there)
    missing = len(values) - len(there)
    treatment = alarm.treat_missing_data or "missing"
    if treatment == "breaching":
        breaching += missing
    elif not there and treatment == "ignore":
        return str(alarm.state_value), str(alarm.state_reason)
    elif not there and treatment == "missing":
        return "INSUFFICIENT_DATA", f"no datapoints were received for {len(values)} periods"
    shown = ", ".join("none" if value is None else f"{value:.6g}" for value in values)
    state = "ALARM" if breaching >= needed else "OK"
    reason = f"{breaching} of the last {len(values)} datapoints [{shown}] breach the threshold"
    return state, f"{reason} {float(alarm.threshold):g} ({alarm.comparison_operator})"


def _reach_s(alarm: Alarm) -> float:
    return _period_s(alarm) * int(alarm.evaluation_periods)


def _period_s(alarm: Alarm) -> int:
    stats = [query.metric_stat for query in alarm.metric_data_queries if query.metric_stat]
    return max([int(alarm.period or 0), *(int(stat.period) for stat in stats)]) or 60


def _by_series(backend: CloudWatchBackend, since_s: float) -> dict[_Key, list[MetricDatumBase]]:
    since = datetime.fromtimestamp(since_s, UTC).replace(tzinfo=None)
    found: dict[_Key, list[MetricDatumBase]] = {}
    for datum in backend.metric_data:
        if datum.timestamp >= since:
            key = (datum.namespace, datum.name, _pairs(datum.dimensions))
            found.setdefault(key, []).append(datum)
    return found


def _pairs(dimensions: Sequence[Dimension]) -> frozenset[tuple[str, str]]:
    return frozenset((str(one.name), str(one.value)) for one in dimensions)


def _values(alarm: Alarm, data: Mapping[_Key, list[MetricDatumBase]], now: float) -> Values:
    """The values that the alarm compares, one for each evaluation period."""
    periods, length = int(alarm.evaluation_periods), _period_s(alarm)

    def series(namespace: str, name: str, dimensions: Sequence[Dimension], stat: str) -> Values:
        rows: list[list[Any]] = [[] for _ in range(periods)]
        for datum in data.get((namespace, name, _pairs(dimensions)), ()):
            age = now - datum.timestamp.replace(tzinfo=UTC).timestamp()
            place = periods - 1 - int(max(age, 0) // length)
            if place >= 0:
                rows[place].append(datum)
        return [_statistic(row, stat) for row in rows]

    if not alarm.metric_data_queries:
        stat = alarm.extended_statistic or alarm.statistic
        return series(alarm.namespace, alarm.metric_name, alarm.dimensions, stat)
    known: dict[str, Values] = {}
    compared: Values = [None] * periods
    for query in sorted(alarm.metric_data_queries, key=lambda one: bool(one.expression)):
        if query.metric_stat:
            metric = query.metric_stat.metric
            known[query.id] = series(
                metric.namespace, metric.metric_name, metric.dimensions, query.metric_stat.stat
            )
        else:
            known[query.id] = evaluate(str(query.expression), known, periods)
        if str(query.return_data).lower() != "false":  # the default on AWS is true
            compared = known[query.id]
    return compared


def _statistic(data: list[Any], stat: str) -> float | None:
    if not data:
        return None
    statistics = Statistics([stat], data[0].timestamp)
    statistics.metric_data = data
    value = statistics.get_statistics_for_type(stat)
    return None if value is None else float(value)
