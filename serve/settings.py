"""Settings of a deployment, from the environment."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.resources import available_cpus

_PREFIX = "KILN_"
MAX_IMAGES = 100  # in one /predict/batch

_Parse = Callable[[str], object]


class SettingsError(ValueError):
    """A variable has a value that makes no sense; the message names it and what was expected."""


@dataclass(frozen=True)
class Settings:
    """Each field is a variable: `max_body_bytes` is KILN_MAX_BODY_BYTES."""

    model: Path | None = None  # the artifact; None: the one that was built in
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 0  # processes; 0: one for each processor
    threads: int = 0  # of a session; 0: the processors, shared by the workers
    max_batch: int = 16  # images in one run of the session
    max_queue: int = 512  # images that wait in one process
    deadline_ms: int = 2_000  # of an image, from its request to the start of its run
    max_body_bytes: int = 6 * 1024 * 1024  # what a synchronous call of AWS Lambda carries
    head_timeout_ms: int = 10_000  # for a request's headers to arrive, or to begin
    body_timeout_ms: int = 10_000  # for a body to arrive
    max_pixels: int = 25_000_000  # of one image, before anything is decoded
    api_keys: tuple[str, ...] = ()  # SHA-256 of each, in hexadecimal digits; none: open to all
    cors_origins: tuple[str, ...] = ()  # that a browser may call from; "*" for any
    root_path: str = ""  # prefix of every path where a proxy leaves it on, as /prod
    log_level: str = "info"
    log_format: str = ""  # json or text; "": text to a terminal, else JSON
    access_log: str = "errors"  # requests with a line in the log: off, errors (5xx) or all
    drift_rate: int | None = None  # images a second watched for drift; 0: none; None: by their size
    flush_ms: int = 500  # that a call on AWS Lambda waits at most for its telemetry to be sent
    cpus: int = field(default_factory=available_cpus)

    @property
    def processes(self) -> int:
        """Server processes to start."""
        return self.workers or self.cpus

    @property
    def session_threads(self) -> int:
        """Threads for one run of a process's session."""
        return self.threads or max(1, self.cpus // self.processes)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Settings of the variables that are set and not empty.

        Raises:
            SettingsError: names every variable that is wrong.
        """
        values: dict[str, object] = {}
        problems: list[str] = []
        for name, (parse, expectation) in _PARSERS.items():
            variable = _PREFIX + name.upper()
            if text := environ.get(variable, "").strip():
                try:
                    values[name] = parse(text)
                except ValueError:
                    problems.append(f"{variable} is {text!r}, expected {expectation}")
        if problems:
            raise SettingsError("; ".join(problems))
        return cls(**values)  # type: ignore[arg-type]  # each parser gives its field's type


def _number(low: int, high: int) -> tuple[_Parse, str]:
    def parse(text: str) -> int:
        number = int(text)
        if not low <= number <= high:
            raise ValueError
        return number

    return parse, f"a whole number from {low} to {high}"


def _list_of(pattern: str) -> _Parse:
    def parse(text: str) -> tuple[str, ...]:
        items = tuple(item.strip() for item in text.split(",") if item.strip())
        if not all(re.fullmatch(pattern, item) for item in items):
            raise ValueError
        return items

    return parse


def _one_of(*words: str) -> tuple[_Parse, str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError
        return text

    return parse, f"one of {', '.join(words)}"


def _root_path(text: str) -> str:
    if not re.fullmatch(r"(?:/[A-Za-z0-9._~-]+)+/?", text):
        raise ValueError
    return text.rstrip("/")


_PARSERS: dict[str, tuple[_Parse, str]] = {
    "model": (Path, "the path of a model.onnx"),
    "host": (str, "an address"),
    "port": _number(0, 65535),
    "workers": _number(1, 256),
    "threads": _number(1, 256),
    "max_batch": _number(1, 1024),
    "max_queue": _number(MAX_IMAGES, 1_000_000),
    "deadline_ms": _number(1, 900_000),
    "max_body_bytes": _number(1024, 2**30),
    "head_timeout_ms": _number(100, 900_000),
    "body_timeout_ms": _number(100, 900_000),
    "max_pixels": _number(1024, 2**31),
    "api_keys": (_list_of("[0-9a-f]{64}"), "SHA-256 digests, separated by commas"),
    "cors_origins": (
        _list_of(r"\*|https?://[^/\s,]+"),
        "origins as https://example.org, separated by commas, or *",
    ),
    "root_path": (_root_path, "a prefix as /prod"),
    "log_level": _one_of("debug", "info", "warning", "error"),
    "log_format": _one_of("json", "text"),
    "access_log": _one_of("off", "errors", "all"),
    "drift_rate": _number(0, 1_000_000),
    "flush_ms": _number(1, 60_000),
}
