"""The contract of a model artifact: its signature, its metadata, and the checks of both."""

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from itertools import pairwise
from typing import Any, Literal

from common.model.model_file import ArtifactError, read_model_file
from common.model.signals import SIGNALS

CHANNELS = ("red", "green", "blue")
Resize = Literal["crop", "stretch", "pad"]  # treatment of images of other aspect ratios


@dataclass(frozen=True)
class Scores:
    """Metrics on the test set, which is used once."""

    images: int
    accuracy: float
    macro_f1: float
    loss: float  # mean cross-entropy, nats
    calibration_error: float


@dataclass(frozen=True)
class SignalReference:
    """The distribution of one signal of `common.model.signals` over the reference images.

    `edges` increase and cut the values into bins, the last holding what reaches the last edge: bin
    i holds edges[i - 1] <= value < edges[i]. `shares` are of images, one more than edges, and sum
    to one; bins are made to hold about equally many.
    """

    name: str
    mean: float
    std: float
    edges: tuple[float, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class DriftReference:
    """Signals and predictions on the reference images, the baseline for drift."""

    images: int
    class_priors: tuple[float, ...]  # share of images predicted as each class
    signals: tuple[SignalReference, ...]  # order of SIGNALS


@dataclass(frozen=True)
class ParityVector:
    """A few images and their expected probabilities; a session that disagrees must not serve."""

    images: bytes  # N*H*W*3, in the model's input order
    probabilities: tuple[tuple[float, ...], ...]  # (N, K)
    tolerance: float  # largest allowed absolute difference of a probability


@dataclass(frozen=True)
class Codec:
    """How a metadata value is written, read, and described in error messages."""

    expectation: str
    encode: Callable[[Any], str]
    decode: Callable[[str], Any]  # raises any ordinary exception on bad input


_CODEC = "codec"  # its key in a dataclass field's metadata


def shortened(text: str) -> str:
    """Quoted for an error message, long values truncated."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def to_json(value: Any) -> str:
    """Canonical JSON: equal values give equal text."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError as exc:
        raise ArtifactError(f"{shortened(str(value))} holds a number that is not finite") from exc


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError


def _text(pattern: str, expectation: str) -> dict[str, Codec]:
    def decode(text: str) -> str:
        _require(re.fullmatch(pattern, text) is not None)
        return text

    return {_CODEC: Codec(expectation, str, decode)}


def _json(
    expectation: str,
    decode: Callable[[Any], Any],
    encode: Callable[[Any], Any] = lambda value: value,
) -> dict[str, Codec]:
    codec = Codec(
        expectation, lambda value: to_json(encode(value)), lambda text: decode(json.loads(text))
    )
    return {_CODEC: codec}


def _number(value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    _require(isinstance(value, (int, float)) and not isinstance(value, bool))
    _require(math.isfinite(value) and low <= value <= high)
    return float(value)


def _integer(value: Any) -> int:
    _require(isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31)
    return int(value)


def _sequence(value: Any, length: int | None = None) -> list[Any]:
    _require(isinstance(value, list) and len(value) > 0 and length in (None, len(value)))
    return list(value)


def _shares(value: Any) -> tuple[float, ...]:
    shares = tuple(_number(share, 0, 1) for share in _sequence(value))
    _require(math.isclose(sum(shares), 1, abs_tol=1e-3))
    return shares


def _class_names(value: Any) -> tuple[str, ...]:
    names = _sequence(value)
    _require(
        len(names) >= 2
        and all(isinstance(name, str) and name for name in names)
        and len(set(names)) == len(names)
    )
    return tuple(names)


def _test_metrics(value: Any) -> Scores:
    return Scores(
        images=_integer(value["images"]),
        accuracy=_number(value["accuracy"], 0, 1),
        macro_f1=_number(value["macro_f1"], 0, 1),
        loss=_number(value["loss"], 0),
        calibration_error=_number(value["calibration_error"], 0, 1),
    )


def _signal(value: Any) -> SignalReference:
    edges = tuple(_number(edge) for edge in _sequence(value["edges"]))
    _require(all(low < high for low, high in pairwise(edges)))
    shares = _shares(value["shares"])
    _require(len(shares) == len(edges) + 1)
    mean, std = _number(value["mean"]), _number(value["std"], 0)
    return SignalReference(value["name"], mean, std, edges, shares)


def _drift_reference(value: Any) -> DriftReference:
    signals = tuple(_signal(signal) for signal in _sequence(value["signals"], len(SIGNALS)))
    _require(tuple(signal.name for signal in signals) == SIGNALS)
    return DriftReference(_integer(value["images"]), _shares(value["class_priors"]), signals)


def _parity(value: Any) -> ParityVector:
    return ParityVector(
        images=base64.b64decode(value["images"], validate=True),
        probabilities=tuple(_shares(row) for row in _sequence(value["probabilities"])),
        tolerance=_number(value["tolerance"], 0, 1),
    )


def _parity_to_json(parity: ParityVector) -> dict[str, Any]:
    return asdict(parity) | {"images": base64.b64encode(parity.images).decode()}


__all__ = [
    "CHANNELS",
    "INPUT",
    "LOGITS",
    "PROBABILITIES",
    "ArtifactError",
    "ArtifactMetadata",
    "DriftReference",
    "ParityVector",
    "Provenance",
    "Resize",
    "Scores",
    "SignalReference",
    "read_artifact",
]
SCHEMA = "2"  # 2: the drift reference holds signals in bins of equal shares
INPUT = "images"  # uint8[N,H,W,3], RGB, 0..255
LOGITS = "logits"  # float32[N,K]
PROBABILITIES = "probabilities"  # float32[N,K], rows sum to one
_PREFIX = "kiln."
_SCHEMA_KEY = _PREFIX + "schema"
_DIGEST_KEY = _PREFIX + "metadata_digest"


_DIGEST = _text("(?:md5:|sha256:)?[0-9a-f]{32,64}(?:[.]dir)?", "a digest in hexadecimal digits")


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from: commit, inputs, and training machine."""

    git_revision: str = field(
        metadata=_text(
            "[0-9a-f]{40}(?:-dirty)?|unknown",
            "40 hexadecimal digits, perhaps '-dirty', or 'unknown'",
        )
    )
    config_digest: str = field(metadata=_DIGEST)
    dataset_digest: str = field(metadata=_DIGEST)
    lock_digest: str = field(metadata=_DIGEST)
    device: str = field(metadata=_text(".+", "the kind of device that trained it"))
    precision: str = field(metadata=_text(".+", "the precision it was trained with"))


@dataclass(frozen=True)
class ArtifactMetadata(Provenance):
    """All metadata of a model artifact."""

    name: str = field(
        metadata=_text("[a-z0-9][a-z0-9._-]*", "lower-case letters, digits, '.', '_' and '-'")
    )
    # The digest of graph and weights.
    version: str = field(metadata=_text("[0-9a-f]{64}", "64 hexadecimal digits"))
    classes: tuple[str, ...] = field(
        metadata=_json("a JSON list of two or more different names", _class_names)
    )
    input_size: tuple[int, int] = field(
        metadata=_json(
            "[height, width] in pixels", lambda v: tuple(_integer(n) for n in _sequence(v, 2))
        )
    )
    # Of the channels scaled to 0..1; applied inside the graph.
    mean: tuple[float, float, float] = field(
        metadata=_json(
            "three numbers in 0..1", lambda v: tuple(_number(n, 0, 1) for n in _sequence(v, 3))
        )
    )
    std: tuple[float, float, float] = field(
        metadata=_json(
            "three numbers in 0.001..1",
            lambda v: tuple(_number(n, 1e-3, 1) for n in _sequence(v, 3)),
        )
    )
    opset: int = field(metadata=_json("a positive integer", _integer))
    test_metrics: Scores = field(
        metadata=_json(
            "images, accuracy, macro_f1, loss and calibration_error", _test_metrics, asdict
        )
    )
    quantisation: Literal["none", "int8"] = field(metadata=_text("none|int8", "'none' or 'int8'"))
    drift_reference: DriftReference = field(
        metadata=_json(
            f"images, class_priors and the signals {', '.join(SIGNALS)}", _drift_reference, asdict
        )
    )
    parity: ParityVector = field(
        metadata=_json(
            "images in base64, their probabilities and a tolerance", _parity, _parity_to_json
        )
    )
    # Treatment of images of other aspect ratios, see common/images.py. Written only if it is not
    # the default, so that older models keep their bytes.
    resize: Resize = field(
        default="crop", metadata=_text("crop|stretch|pad", "'crop', 'stretch' or 'pad'")
    )

    def __post_init__(self) -> None:
        """Rejects contradictory values."""
        if problems := [*_inconsistencies(self)]:
            raise ArtifactError("; ".join(problems))

    def to_metadata_props(self) -> dict[str, str]:
        """ONNX metadata entries, sorted by key.

        Raises:
            ArtifactError: a reader would reject a value.
        """
        props = {
            _PREFIX + name: codec.encode(getattr(self, name))
            for name, codec in FIELDS.items()
            if getattr(self, name) != _DEFAULTS.get(name)
        }
        props[_SCHEMA_KEY] = SCHEMA
        props[_DIGEST_KEY] = _metadata_digest(props)
        self.from_metadata_props(props)
        return dict(sorted(props.items()))

    @classmethod
    def from_metadata_props(cls, props: Mapping[str, str]) -> "ArtifactMetadata":
        """Parses an ONNX file's metadata entries; foreign keys are ignored.

        Raises:
            ArtifactError: names every key that is missing or wrong, and what was expected.
        """
        if not any(key.startswith(_PREFIX) for key in props):
            raise ArtifactError(
                f"foreign ONNX model: no metadata key starts with {_PREFIX!r}; "
                "Kiln serves what //ml:train and //ml:export wrote"
            )
        if (schema := props.get(_SCHEMA_KEY)) != SCHEMA:
            raise ArtifactError(
                f"{_SCHEMA_KEY} is {schema!r}, expected {SCHEMA!r}: "
                "another release of Kiln wrote it, export the model again"
            )
        values, problems = dict[str, Any](), list[str]()
        for name, codec in FIELDS.items():
            key = _PREFIX + name
            if key not in props:
                if name in _DEFAULTS:
                    continue
                problems.append(f"{key} is missing, expected {codec.expectation}")
                continue
            try:
                values[name] = codec.decode(props[key])
            except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
                problems.append(f"{key} is {shortened(props[key])}, expected {codec.expectation}")
        if problems:
            raise ArtifactError("; ".join(problems))
        metadata = cls(**values)
        if (digest := props.get(_DIGEST_KEY)) != (expected := _metadata_digest(props)):
            raise ArtifactError(
                f"{_DIGEST_KEY} is {digest!r}, expected {expected}: "
                "the metadata was changed after export"
            )
        return metadata


FIELDS: dict[str, Codec] = {f.name: f.metadata[_CODEC] for f in fields(ArtifactMetadata)}
_DEFAULTS = {f.name: f.default for f in fields(ArtifactMetadata) if f.default is not MISSING}


def read_artifact(data: bytes) -> ArtifactMetadata:
    """The metadata of a serialised model artifact, once its graph and weights match its version.

    Raises:
        ArtifactError: the bytes are truncated, foreign or tampered with; the message says which.
    """
    file = read_model_file(data)
    metadata = ArtifactMetadata.from_metadata_props(file.metadata_props)
    if metadata.version != file.version:
        raise ArtifactError(
            f"{_PREFIX}version is {metadata.version}, but the digest of graph and weights is "
            f"{file.version}: the model was changed after export"
        )
    return metadata


def _metadata_digest(props: Mapping[str, str]) -> str:
    ours = {
        key: value for key, value in props.items() if key.startswith(_PREFIX) and key != _DIGEST_KEY
    }
    return hashlib.sha256(to_json(ours).encode()).hexdigest()


def _inconsistencies(metadata: ArtifactMetadata) -> list[str]:
    """Cross-key errors: counts that disagree with the classes or the input size."""
    problems, classes = [], len(metadata.classes)
    if (priors := len(metadata.drift_reference.class_priors)) != classes:
        problems.append(
            f"{_PREFIX}drift_reference has {priors} class priors, expected {classes}: one per class"
        )
    if any(len(row) != classes for row in metadata.parity.probabilities):
        problems.append(
            f"{_PREFIX}parity has rows that are not {classes} probabilities long: one per class"
        )
    height, width = metadata.input_size
    expected = len(metadata.parity.probabilities) * height * width * len(CHANNELS)
    if (found := len(metadata.parity.images)) != expected:
        problems.append(
            f"{_PREFIX}parity has {found} bytes of images, "
            f"expected {expected}: N x {height} x {width} x 3"
        )
    return problems
