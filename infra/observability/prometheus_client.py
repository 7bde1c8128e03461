"""Questions to a Prometheus."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

_TIMEOUT_S = 60.0


class PrometheusError(Exception):
    """There was no answer, or none that helps; the message says which."""


class Series(NamedTuple):
    """Labels, and values by time in seconds since 1970."""

    labels: Mapping[str, str]
    times: list[float]
    values: list[float]


class PrometheusClient:
    """One server."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        direct = build_opener(ProxyHandler({}))  # it is on this machine
        self._open = (
            direct.open if "//127.0.0.1" in url or "//localhost" in url else build_opener().open
        )

    def range(self, promql: str, start_s: float, end_s: float, step_s: float) -> list[Series]:
        """Series over a range, gaps left out.

        Raises:
            PrometheusError: no answer, or a query that it refuses.
        """
        parameters = {"query": promql, "start": start_s, "end": end_s, "step": step_s}
        return [
            Series(
                one["metric"],
                [float(at) for at, _ in one["values"]],
                [float(value) for _, value in one["values"]],
            )
            for one in self._get("query_range", parameters)
        ]

    def _get(self, what: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        url = f"{self._url}/api/v1/{what}?{urlencode(parameters)}"
        try:
            with self._open(url, timeout=_TIMEOUT_S) as answer:
                result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
                return result
        except HTTPError as exc:
            raise PrometheusError(f"{self._url} refused: {exc.read().decode()}") from exc
        except OSError as exc:
            raise PrometheusError(
                f"no Prometheus answers at {self._url} ({exc}): start one by "
                "bazel run //infra:observability, or name it by --prometheus"
            ) from exc
