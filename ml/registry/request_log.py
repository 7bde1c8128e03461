"""Finds in a service's log lines which model version answered a request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ml.registry.errors import RegistryError

REQUEST_KEYS = ("request_id", "requestId", "request.id", "trace_id", "traceId", "x-request-id")
VERSION_KEYS = ("model_version", "model.version", "modelVersion", "x-model-version")


def version_in_line(line: str) -> str:
    """The model version that a JSON log line or response names.

    Raises:
        RegistryError: it is no JSON object, or names none.
    """
    try:
        entry = json.loads(line)
    except ValueError as exc:
        raise RegistryError(f"not a JSON log line: {exc}") from exc
    for version in _values(entry, VERSION_KEYS):
        return version
    raise RegistryError(
        f"the log line names no model version: expected {' or '.join(VERSION_KEYS)}"
    )


def version_of_request(lines: Iterable[str], request: str) -> str:
    """The model version in the first JSON line that carries this request id and a version.

    Raises:
        RegistryError: no line does.
    """
    seen = False
    for line in lines:
        if request not in line:
            continue
        try:
            entry = json.loads(line[line.index("{") :])
        except ValueError:
            continue  # a line of another program
        if request in _values(entry, REQUEST_KEYS):
            seen = True
            for version in _values(entry, VERSION_KEYS):
                return version
    why = "its lines name no model version" if seen else "no JSON line carries it"
    raise RegistryError(f"request {request} is not in the log: {why}")


def _values(entry: Any, keys: tuple[str, ...]) -> Iterator[str]:
    """Texts under any of the keys, however deep: collectors nest what a service logs."""
    if isinstance(entry, Mapping):
        for key, value in entry.items():
            if key in keys and isinstance(value, str) and value:
                yield value
            else:
                yield from _values(value, keys)
        # OpenTelemetry's JSON: {"key": "model.version", "value": {"stringValue": "…"}}
        if entry.get("key") in keys and isinstance(entry.get("value"), Mapping):
            yield from (text for text in entry["value"].values() if isinstance(text, str))
    elif isinstance(entry, list):
        for item in entry:
            yield from _values(item, keys)
