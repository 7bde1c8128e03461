"""What CloudWatch makes of a line of the log.

Source: "Specification: Embedded metric format" of the CloudWatch user guide, the schema as it is
printed there, and the rules of its text:
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jsonschema  # type: ignore[import-untyped]

MAX_LINE_BYTES = 256 * 1024  # of CloudWatch Logs' events, as it was for years: now it is more
_RATES = "Bytes|Kilobytes|Megabytes|Gigabytes|Terabytes|Bits|Kilobits|Megabits|Gigabits|Terabits"
_UNITS = (
    rf"^(Seconds|Microseconds|Milliseconds|{_RATES}|Percent|Count|({_RATES}|Count)\/Second|None)$"
)


def _text(longest: int) -> dict[str, Any]:
    return {"type": "string", "pattern": "^(.*)$", "minLength": 1, "maxLength": longest}


SCHEMA: dict[str, Any] = {
    "type": "object",
    "title": "Root Node",
    "required": ["_aws"],
    "properties": {
        "_aws": {
            "type": "object",
            "title": "Metadata",
            "required": ["Timestamp", "CloudWatchMetrics"],
            "properties": {
                "Timestamp": {"type": "integer"},
                "CloudWatchMetrics": {
                    "type": "array",
                    "title": "MetricDirectives",
                    "minItems": 1,  # ours: a line without metrics is no line of ours
                    "items": {
                        "type": "object",
                        "title": "MetricDirective",
                        "required": ["Namespace", "Dimensions", "Metrics"],
                        "properties": {
                            "Namespace": _text(1024),
                            "Dimensions": {
                                "type": "array",
                                "minItems": 1,
                                "items": {
                                    "type": "array",
                                    "title": "DimensionSet",
                                    "maxItems": 30,
                                    "items": _text(250),
                                },
                            },
                            "Metrics": {
                                "type": "array",
                                "title": "MetricDefinitions",
                                "maxItems": 100,  # "must not exceed 100 metric definitions"
                                "items": {
                                    "type": "object",
                                    "required": ["Name"],
                                    "properties": {
                                        "Name": _text(1024),
                                        "Unit": {"type": "string", "pattern": _UNITS},
                                        "StorageResolution": {"type": "integer"},
                                    },
                                },
                            },
                        },
                    },
                },
            },
        }
    },
}


class Sample(NamedTuple):
    """One value that CloudWatch would store."""

    namespace: str
    name: str
    unit: str
    dimensions: tuple[tuple[str, str], ...]  # sorted
    value: float


def samples(line: dict[str, Any]) -> list[Sample]:
    """The values of a line.

    Raises:
        jsonschema.ValidationError, AssertionError: CloudWatch would not take it.
    """
    jsonschema.validate(line, SCHEMA)
    found = []
    for directive in line["_aws"]["CloudWatchMetrics"]:
        for dimensions in directive["Dimensions"]:
            pairs = tuple(sorted((name, line[name]) for name in dimensions))
            assert all(isinstance(value, str) and 1 <= len(value) <= 1024 for _, value in pairs)
            for metric in directive["Metrics"]:
                values = line[metric["Name"]]  # "the target member must be of the root node"
                values = values if isinstance(values, list) else [values]
                assert 1 <= len(values) <= 100
                assert all(type(value) in (int, float) for value in values)
                found += [
                    Sample(directive["Namespace"], metric["Name"], metric["Unit"], pairs, value)
                    for value in values
                ]
    return found
