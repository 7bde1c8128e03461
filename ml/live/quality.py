"""Live quality of a model version: estimated accuracy, accuracy by labels, and drift of captured
predictions, over time and overall, compared with the promised accuracy.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from common.captures import Capture, Verdict
from common.images import UnreadableImage, read_pixels
from common.model.artifact import ArtifactError, Scores, read_artifact
from common.model.drift import DEFAULT_LIMITS, compare
from ml.artifact.artifact import BUNDLED_MODELS, Artifact, load_artifact, measured
from ml.artifact.evaluation import Labelled
from ml.drift.observed import counted
from ml.live.estimate import (
    Estimate,
    Interval,
    LabelledAccuracy,
    estimate,
    labelled_accuracy,
    own_confidence,
    sample,
    used_twice,
)
from ml.live.recalibration import Recalibration, features
from ml.registry.registry import Registry
from ml.runs.datasets import config_beside, dataset_of


@dataclass(frozen=True)
class Model:
    """A model for captured images, with its training configuration."""

    artifact: Artifact
    config: DictConfig | None

    @property
    def version(self) -> str:
        """Digest of graph and weights."""
        return self.artifact.metadata.version

    def held_out(self) -> Labelled:
        """The validation images of its training.

        Raises:
            DatasetError, FetchError: they are unavailable or unknown.
        """
        return dataset_of(self.artifact.metadata, self.config).read("validation")

    def test(self) -> Labelled:
        """The test images of its dataset, to evaluate estimates.

        Raises:
            DatasetError, FetchError: they are unavailable.
        """
        return dataset_of(self.artifact.metadata, self.config).read("test")


def open_model(path: Path, threads: int = 0) -> Model:
    """The model in a file, with the configuration from its run folder.

    Raises:
        ArtifactError, OSError: it cannot be used.
    """
    artifact = load_artifact(path, threads)
    return Model(artifact, config_beside(path, artifact.metadata.config_digest))


def find_model(
    version: str, files: Sequence[Path], registry: Registry | None, threads: int = 0
) -> Model | None:
    """The model of a version, from these files, the bundled models or the registry.

    Raises:
        ArtifactError: it exists but cannot be used.
        StoreError: the registry cannot be read.
    """
    for path in (*files, *BUNDLED_MODELS):
        if path.is_file() and _version(path) == version:
            return open_model(path, threads)
    if registry is None or (manifest := registry.versions.find(version)) is None:
        return None
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(registry.versions.model(version))
        file.flush()
        artifact = load_artifact(Path(file.name), threads)
    config = manifest.lineage.config
    return Model(artifact, None if config is None else OmegaConf.create(dict(config)))


def _version(path: Path) -> str:
    try:
        return read_artifact(path.read_bytes()).version
    except (ArtifactError, OSError):
        return ""


Floats = NDArray[np.float64]
Says = Literal["fine", "below the promise", "nothing to judge by"]

_WIDTHS_S = (600, 3600, 3 * 3600, 6 * 3600, 86400, 7 * 86400, 30 * 86400)
_MOST_WINDOWS, _ROWS_OF_WINDOW = 48, 200  # minimum average number of rows
_CHUNK = 500  # images decoded and predicted together


@dataclass(frozen=True)
class Known:
    """The data available for a version that the captures name."""

    model: Model | None
    recalibration: Recalibration | None
    note: str = ""  # the reason if there is no recalibration


@dataclass
class Seen:
    """A version's captured predictions without their images.

    Attributes:
        features: (N, F), with a recalibration.
        signals: (N,) each, with a model.
        unreadable: predictions whose image is damaged or of another size.
    """

    known: Known
    rows: list[Capture] = field(default_factory=list)
    features: Floats | None = None
    signals: dict[str, Floats] = field(default_factory=dict)
    unreadable: int = 0


@dataclass(frozen=True)
class Window:
    """A span of time; `drifted` names signals that drifted from the reference."""

    start: float
    end: float
    rows: int
    expected: Estimate
    labelled: LabelledAccuracy | None
    drifted: tuple[str, ...]

    @property
    def interval(self) -> Interval:
        """The interval to compare with the promise: that of randomly sampled labels, unless they
        are so few that the estimate's is narrower.
        """
        labelled, expected = self.labelled, self.expected.accuracy
        if labelled is None or labelled.chosen:
            return expected
        label = labelled.accuracy
        return label if label.high - label.low < expected.high - expected.low else expected


@dataclass(frozen=True)
class Quality:
    """The live quality of one version.

    Attributes:
        whole: all predictions together.
        promise: accuracy on the test images minus a margin; None if the model is unavailable.
        note: why the estimate uses the model's own confidence, if it does.
        unreadable: predictions left out because of their image.
    """

    version: str
    name: str
    classes: tuple[str, ...]
    test: Scores | None
    promise: float | None
    whole: Window
    windows: tuple[Window, ...]
    note: str
    unreadable: int

    @property
    def headroom(self) -> float | None:
        """Upper end of the interval minus the promise: over all predictions, or over the last
        window if lower; None without a promise.
        """
        if self.promise is None:
            return None
        return min(one.interval.high for one in (self.whole, self.windows[-1])) - self.promise

    @property
    def says(self) -> Says:
        """Below the promise if a whole interval is: of all predictions, or of the last window."""
        if self.headroom is None:
            return "nothing to judge by"
        return "below the promise" if self.headroom < 0 else "fine"


def gather(
    rows: Iterable[Capture], known: Callable[[str], Known], progress: Callable[[int], None]
) -> dict[str, Seen]:
    """Captured predictions by version, processed in chunks, so that few images are in memory."""
    seen: dict[str, Seen] = {}
    waiting: dict[str, list[Capture]] = {}
    parts: dict[str, list[tuple[Floats | None, dict[str, Floats]]]] = {}

    def measure(version: str) -> None:
        chunk = waiting.pop(version, [])
        if chunk:
            parts.setdefault(version, []).append(_measure(seen[version], chunk))
            progress(len(chunk))

    for row in rows:
        if row.model_version not in seen:
            seen[row.model_version] = Seen(known(row.model_version))
        waiting.setdefault(row.model_version, []).append(row)
        if len(waiting[row.model_version]) == _CHUNK:
            measure(row.model_version)
    for version in list(waiting):
        measure(version)
    for version, found in parts.items():
        if all(one[0] is not None for one in found):
            seen[version].features = np.concatenate([one[0] for one in found])
        seen[version].signals = {
            name: np.concatenate([one[1][name] for one in found]) for name in found[0][1]
        }
    return {version: one for version, one in seen.items() if one.rows}


def _measure(seen: Seen, chunk: list[Capture]) -> tuple[Floats | None, dict[str, Floats]]:
    """Adds rows with their features and signals."""
    model = seen.known.model
    if model is None:
        seen.rows += [replace(row, image=b"") for row in chunk]
        return None, {}
    size, classes = model.artifact.metadata.input_size, len(model.artifact.metadata.classes)
    pixels = [decode(row.image, size) for row in chunk]
    good = [
        number
        for number, image in enumerate(pixels)
        if image is not None and len(chunk[number].probabilities) == classes
    ]
    seen.unreadable += len(chunk) - len(good)
    seen.rows += [replace(chunk[number], image=b"") for number in good]
    images = np.array([pixels[number] for number in good], np.uint8).reshape(-1, *size, 3)
    p = np.array([chunk[number].probabilities for number in good]).reshape(-1, classes)
    if not good:
        return (None, {})
    found = features(model.artifact, images, p) if seen.known.recalibration else None
    return found, measured(images, p)


def decode(png: bytes, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """(H, W, 3) RGB of a captured image; None if it is damaged or of another size."""
    try:
        pixels = read_pixels(png)
    except UnreadableImage:
        return None
    return pixels if pixels.shape[:2] == size else None


def quality(
    version: str,
    seen: Mapping[str, Seen],
    verdicts: Mapping[tuple[str, int], Verdict],
    margin: float,
) -> Quality:
    """Evaluates one of the versions.

    Args:
        seen: of all versions, since a reused request id is ambiguous.
        margin: allowed loss of accuracy against the test images.
    """
    mine = seen[version]
    model = mine.known.model
    metadata = model.artifact.metadata if model else None
    rows = mine.rows
    times = np.array([row.time for row in rows])
    everyone = (row for one in seen.values() for row in one.rows)
    ambiguous, least_kept = used_twice(everyone), min(row.probability for row in rows)
    classes = len(rows[0].probabilities)
    names = metadata.classes if metadata else tuple(map(str, range(classes)))

    def window(chosen: NDArray[np.int64], start: float, end: float) -> Window:
        some = [rows[i] for i in chosen]
        labelled = sample(some, verdicts, names, ambiguous, least_kept)
        return Window(
            start,
            end,
            len(chosen),
            _expected(mine, chosen),
            labelled_accuracy(labelled, classes),
            _drifted(mine, chosen),
        )

    spans = _spans(times)
    return Quality(
        version=version,
        name=metadata.name if metadata else "unknown model",
        classes=names,
        test=metadata.test_metrics if metadata else None,
        promise=metadata.test_metrics.accuracy - margin if metadata else None,
        whole=window(np.arange(len(rows)), float(times.min()), float(times.max())),
        windows=tuple(
            window(chosen, start, end)
            for start, end in spans
            if len(chosen := np.flatnonzero((times >= start) & (times < end)))
        ),
        note=mine.known.note,
        unreadable=mine.unreadable,
    )


def _expected(seen: Seen, chosen: NDArray[np.int64]) -> Estimate:
    p = np.array([seen.rows[i].probabilities for i in chosen])
    kept = np.array([seen.rows[i].probability for i in chosen])
    if seen.features is not None and seen.known.recalibration is not None:
        belief = seen.known.recalibration.belief(seen.features[chosen])
    else:
        model = seen.known.model
        error = model.artifact.metadata.test_metrics.calibration_error if model else 0.0
        belief = own_confidence(p, error)
    return estimate(p, belief, kept)


def _drifted(seen: Seen, chosen: NDArray[np.int64]) -> tuple[str, ...]:
    """Signals that drifted. Unsure predictions were captured more often; rows are dropped at random
    until capture probabilities are equal.
    """
    if seen.known.model is None:
        return ()
    kept = np.array([seen.rows[i].probability for i in chosen])
    random = np.random.default_rng(len(chosen))
    even = chosen[random.random(len(chosen)) < kept.min() / kept]
    answers = np.array([seen.rows[i].answer for i in even], np.int64)
    reference = seen.known.model.artifact.metadata.drift_reference
    signals = {name: values[even] for name, values in seen.signals.items()}
    return compare(reference, counted(reference, answers, signals), DEFAULT_LIMITS).drifted


def _spans(times: Floats) -> Sequence[tuple[float, float]]:
    """Spans of one round length that cover all times."""
    low, high = float(times.min()), float(times.max())
    most = max(1, min(_MOST_WINDOWS, len(times) // _ROWS_OF_WINDOW))
    width = next((w for w in _WIDTHS_S if (high - low) / w <= most), (high - low) / most)
    first = low - low % width
    number = int((high - first) // width) + 1
    return [(first + i * width, first + (i + 1) * width) for i in range(number)]
