"""Settings of a deployment, from the environment."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from msgspec import Meta, Struct, ValidationError, convert, field, structs

from common.resources import available_cpus

_PREFIX = "KILN_"
_LAMBDA = "AWS_LAMBDA_RUNTIME_API"
MAX_IMAGES = 100  # images in one /predict/batch request


class SettingsError(ValueError):
    """A variable has an invalid value; the message names it and what was expected."""


def _whole(low: int, high: int) -> Meta:
    return Meta(ge=low, le=high, description=f"a whole number from {low} to {high}")


_Count = Annotated[int, _whole(1, 256)]
_Timeout = Annotated[int, _whole(100, 900_000)]
_Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
_Digests = Annotated[tuple[_Digest, ...], Meta(description="SHA-256 digests, separated by commas")]
_Origin = Annotated[str, Meta(pattern=r"^(\*|https?://[^/\s,]+)$")]
_Origins = Annotated[
    tuple[_Origin, ...],
    Meta(description="origins as https://example.org, separated by commas, or *"),
]
_Share = Annotated[float, Meta(gt=0, le=1, description="a number above 0, at most 1")]
_Place = Annotated[
    str,
    Meta(
        pattern=r"^(s3://[a-z0-9][a-z0-9.-]+(/\S*)?|file:///.+|(?![a-z0-9]+://).+)$",
        description="a folder, or s3://bucket/prefix",
    ),
]
_RootPath = Annotated[
    str, Meta(pattern="^(/[A-Za-z0-9._~-]+)+/?$", description="a prefix as /prod")
]


class Settings(Struct, frozen=True, kw_only=True):
    """Each field is a variable: `max_body_bytes` is KILN_MAX_BODY_BYTES.

    Types describe the valid values; a default may be one that no variable can express.
    """

    # The artifact, or a folder with it in several precisions; None: the built-in model.
    model: Annotated[Path | None, Meta(description="the path of a model.onnx")] = None
    # Key that the model's signature must verify with; empty: signatures are not checked.
    model_key: Annotated[str, Meta(description="a public key in PEM, or its path")] = ""
    precision: Literal["", "fp32", "int8"] = ""  # "": the only one, or the faster
    host: str = "127.0.0.1"
    port: Annotated[int, _whole(0, 65535)] = 8000
    workers: _Count = 0  # worker processes; 0: one per CPU
    threads: _Count = 0  # of a session; 0: the CPUs divided by the workers
    max_batch: Annotated[int, _whole(1, 1024)] = 16  # images per model run
    max_queue: Annotated[int, _whole(MAX_IMAGES, 1_000_000)] = 512  # images queued in one process
    # Of an image, from its request to the start of its run.
    deadline_ms: Annotated[int, _whole(1, 900_000)] = 2_000
    # The payload limit of synchronous AWS Lambda invocations.
    max_body_bytes: Annotated[int, _whole(1024, 2**30)] = 6 * 1024 * 1024
    head_timeout_ms: _Timeout = 10_000  # timeout for a request's headers to begin and to arrive
    body_timeout_ms: _Timeout = 10_000  # timeout of a body
    # Of one image, checked before decoding.
    max_pixels: Annotated[int, _whole(1024, 2**31)] = 25_000_000
    api_keys: _Digests = ()  # none: no authentication
    cors_origins: _Origins = ()  # allowed CORS origins; "*" for any
    root_path: _RootPath = ""  # path prefix that a proxy does not strip, such as /prod
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["", "json", "text"] = ""  # "": text on a terminal, else JSON
    access_log: Literal["off", "errors", "all"] = "errors"  # requests to log; errors are 5xx
    # Images per second sampled for drift; 0: none; None: by their size.
    drift_rate: Annotated[int, _whole(0, 1_000_000)] | None = None
    # Whether /predict offers saliency maps, which cost fifty images; the default is everywhere but
    # on AWS Lambda.
    saliency: Annotated[bool, Meta(description="true or false")] = True
    # Where a sample of predictions is stored, as pixels and probabilities; "": capture is off.
    capture: _Place = ""
    capture_share: _Share = 0.1  # sampling probability of a confident prediction
    capture_unsure: _Share = 0.5  # of a tie between two classes; interpolated in between
    # A batch is written at this number of rows, or at this age.
    capture_rows: Annotated[int, _whole(1, 10_000)] = 500
    capture_age_s: Annotated[int, _whole(1, 1_800)] = 60
    # How long an invocation on AWS Lambda waits at most to send telemetry and captures.
    flush_ms: Annotated[int, _whole(1, 60_000)] = 500
    cpus: int = field(default_factory=available_cpus)  # not a variable

    @property
    def processes(self) -> int:
        """Worker processes to start."""
        return self.workers or self.cpus

    @property
    def session_threads(self) -> int:
        """Threads of one session."""
        return self.threads or max(1, self.cpus // self.processes)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Parses the variables that are set and not empty.

        Raises:
            SettingsError: names every invalid variable.
        """
        values: dict[str, Any] = {}
        problems: list[str] = []
        for one in structs.fields(cls):
            variable = _PREFIX + one.name.upper()
            text = environ.get(variable, "").strip() if one.name != "cpus" else ""
            if text:
                try:
                    values[one.name] = _value(text, one.type)
                except ValidationError:
                    expectation = next(_expectations(one.type), "another value")
                    problems.append(f"{variable} is {text!r}, expected {expectation}")
        if problems:
            raise SettingsError("; ".join(problems))
        values.setdefault("saliency", _LAMBDA not in environ)
        if "root_path" in values:
            values["root_path"] = values["root_path"].rstrip("/")
        return cls(**values)


def _value(text: str, kind: Any) -> Any:
    of_many = kind in (_Digests, _Origins)
    found = [item.strip() for item in text.split(",") if item.strip()] if of_many else text
    return convert(found, kind, strict=False, dec_hook=lambda _, path: Path(path))


def _expectations(kind: Any) -> Iterator[str]:
    """Descriptions of valid values for each field."""
    parts = get_args(kind)
    yield from (one.description for one in parts if isinstance(one, Meta) and one.description)
    if words := [one for one in parts if isinstance(one, str) and one]:
        yield f"one of {', '.join(words)}"
    for part in parts:
        yield from _expectations(part)
