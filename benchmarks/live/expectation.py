"""Errors of the estimated accuracy, with and without recalibration.

Test images are corrupted as in CIFAR-10-C (`ml/drift/corruptions.py`), unknown to the
recalibration, which is fitted to the model's validation images with other shifts
(`ml/live/shifts.py`). One stream per corruption and severity gives the errors, also for fits
without shifts of that kind. Many streams sampled from clean and mildly changed images give the
coverage of intervals. Writes a table and JSON. Predictions are cached in the folder, so that a
killed run resumes; without them it takes a quarter of an hour on two cores.

  bazel run //ml/live:expectation
  bazel run //ml/live:expectation -- --images 600 --streams 100     # a quick look
"""

import argparse
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from common.captures import sampling_probability
from common.command_line import command_parser, count
from common.files import user_path, write_whole
from common.model.drift import DEFAULT_LIMITS, compare
from common.terminal import Progress, terminal
from ml.artifact.artifact import BUNDLED_MODELS, ArtifactError, measured, model_path
from ml.artifact.evaluation import Labelled
from ml.data.cifar10 import DatasetError
from ml.drift.corruptions import CORRUPTIONS, corrupt
from ml.drift.observed import counted
from ml.live.estimate import Belief, estimate, own_confidence
from ml.live.quality import Model, open_model
from ml.live.recalibration import Recalibration, Rows, answered, features, fit
from ml.live.shifts import SHIFTS

Floats = NDArray[np.float64]
_T = TypeVar("_T", Rows, "Answered")
SEVERITIES = (1, 2, 3)
# The related kind of shift for each corruption.
KINDS = {
    "gaussian_noise": "noise",
    "shot_noise": "noise",
    "gaussian_blur": "blur",
    "motion_blur": "blur",
    "contrast": "contrast",
    "brightness": "exposure",
    "jpeg": "compression",
}
BENIGN = tuple(f"{kind}:1" for kind in CORRUPTIONS if KINDS[kind] != "noise")
_SHARE, _UNSURE = 0.1, 1.0  # capture probabilities, for sampled streams


@dataclass(frozen=True)
class Answered:
    """Predictions for test images under one condition."""

    probabilities: Floats
    features: Floats
    right: Floats
    drifted: NDArray[np.str_]  # signals


@dataclass(frozen=True)
class Error:
    """One stream: true and estimated accuracy; errors are estimated minus true."""

    condition: str
    accuracy: float
    plain: float
    expected: float
    low: float
    high: float
    unseen: float  # estimated by a fit without shifts of that kind
    drifted: bool


@dataclass(frozen=True)
class Coverage:
    """The share of streams whose interval covers the truth."""

    condition: str
    streams: int
    plain: float
    recalibrated: float
    sampled: float  # with predictions captured at random, unsure ones more often


def main(arguments: Sequence[str], console: Console) -> int:
    options = _parser().parse_args(arguments)
    try:
        model = open_model(model_path(options.model or str(_INT8)), options.threads)
        with Progress("reading", console=Console(stderr=True)) as progress:
            folder = user_path(options.out)
            rows = _kept(
                folder / "validation.npz",
                Rows,
                lambda: answered(model.artifact, model.held_out(), progress),
            )
            progress.begin("fitting")
            whole = fit(model.version, rows)
            fits = {name: _without(model.version, rows, name) for name in SHIFTS}
            errors, coverages = _measure(model, whole, fits, options, folder, progress)
    except (ArtifactError, DatasetError, OSError) as exc:
        print(exc, file=sys.stderr)
        return 2
    _print(errors, coverages, console)
    path = folder / "expectation.json"
    write_whole(path, json.dumps(_as_dict(whole, errors, coverages), indent=2) + "\n")
    console.print(str(path), highlight=False, soft_wrap=True)
    return 0


def _without(version: str, rows: Rows, kind: str) -> Recalibration:
    return fit(version, rows.where(~rows.kinds[:, list(SHIFTS).index(kind)]), doubts=False)


def _measure(
    model: Model,
    whole: Recalibration,
    fits: dict[str, Recalibration],
    options: argparse.Namespace,
    folder: Path,
    progress: Progress,
) -> tuple[list[Error], list[Coverage]]:
    test = model.test()
    random = np.random.default_rng(options.seed)
    order = random.permutation(len(test.labels))[: options.images]
    conditions = ["clean", *(f"{kind}:{s}" for kind in CORRUPTIONS for s in SEVERITIES)]
    errors, coverages = [], []
    progress.begin("answering", len(conditions))
    for condition in conditions:
        found = _kept(
            folder / f"{condition.replace(':', '-')}.npz",
            Answered,
            partial(_answers, model, test, order, condition, options.seed),
        )
        unseen = whole if condition == "clean" else fits[KINDS[condition.partition(":")[0]]]
        errors.append(_error(condition, found, model, whole, unseen))
        if condition in ("clean", *BENIGN):
            coverages.append(_coverage(condition, found, model, whole, options.streams, random))
        progress.advance()
    return errors, coverages


def _answers(
    model: Model, test: Labelled, chosen: NDArray[np.int64], condition: str, seed: int
) -> Answered:
    images, artifact = test.images[chosen], model.artifact
    if condition != "clean":
        kind, severity = condition.split(":")
        images = corrupt(images, kind, int(severity), seed)
    p = artifact.predict(images).probabilities.astype(np.float64)
    parts = [
        features(artifact, images[i : i + 1000], p[i : i + 1000]) for i in range(0, len(p), 1000)
    ]
    reference = artifact.metadata.drift_reference
    window = counted(reference, p.argmax(axis=1), measured(images, p))
    return Answered(
        p,
        np.concatenate(parts),
        (p.argmax(axis=1) == test.labels[chosen]).astype(float),
        np.array(compare(reference, window, DEFAULT_LIMITS).drifted, np.str_),
    )


def _kept(path: Path, kind: Callable[..., _T], make: Callable[[], _T]) -> _T:
    """The arrays in a file, computed and stored if missing."""
    if path.is_file():
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return kind(*(file[name] for name in file.files))
    made = make()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **vars(made))
    write_whole(path, buffer.getvalue())
    return made


def _error(
    condition: str, found: Answered, model: Model, whole: Recalibration, unseen: Recalibration
) -> Error:
    expected = estimate(found.probabilities, whole.belief(found.features)).accuracy
    return Error(
        condition,
        accuracy=float(found.right.mean()),
        plain=float(found.probabilities.max(axis=1).mean()),
        expected=expected.value,
        low=expected.low,
        high=expected.high,
        unseen=float(unseen.belief(found.features).right.mean()),
        drifted=bool(found.drifted.size),
    )


def _coverage(
    condition: str,
    found: Answered,
    model: Model,
    whole: Recalibration,
    streams: int,
    random: np.random.Generator,
) -> Coverage:
    """Bootstrap streams as long as the number of images."""
    every = whole.belief(found.features)
    own = own_confidence(
        found.probabilities, model.artifact.metadata.test_metrics.calibration_error
    )
    kept = np.array([sampling_probability(p, _SHARE, _UNSURE) for p in found.probabilities])
    held, size = np.zeros(3), len(found.right)
    for _ in range(streams):
        rows = random.integers(size, size=size)
        truth = found.right[rows].mean()
        some = rows[random.random(size) < kept[rows]]
        intervals = [
            estimate(found.probabilities[rows], _of(own, rows, whole), classes=False).accuracy,
            estimate(found.probabilities[rows], _of(every, rows, whole), classes=False).accuracy,
            estimate(
                found.probabilities[some], _of(every, some, whole), kept[some], classes=False
            ).accuracy,
        ]
        held += [one.low <= truth <= one.high for one in intervals]
    return Coverage(condition, streams, *(held / streams).tolist())


def _of(belief: Belief, rows: NDArray[np.int64], whole: Recalibration) -> Belief:
    """Restricts everything to these predictions."""
    right = belief.right[rows]
    doubt = whole.doubt_of(float(right.mean())) if belief.recalibrated else 0.0
    return Belief(right, belief.members[:, rows], doubt, belief.bias, belief.recalibrated)


def _print(errors: Sequence[Error], coverages: Sequence[Coverage], console: Console) -> None:
    table = Table(title="Expected minus true accuracy, points", title_justify="left")
    for name in ("condition", "true %", "plain", "recalibrated", "kind unseen", "interval holds"):
        table.add_column(name, justify="left" if name == "condition" else "right")
    table.add_column("drift")
    for one in errors:
        table.add_row(
            one.condition,
            f"{100 * one.accuracy:.1f}",
            *(f"{100 * (v - one.accuracy):+.1f}" for v in (one.plain, one.expected, one.unseen)),
            "yes" if one.low <= one.accuracy <= one.high else "no",
            "marked" if one.drifted else "–",
        )
    shown = [f"{100 * error:.2f}" for error in _means(errors).values()]
    table.add_row("mean |error|, corrupted", "", *shown, "", "")
    console.print(table)
    table = Table(title="Coverage of the intervals", title_justify="left")
    for name in ("condition", "streams", "plain", "recalibrated", "of a sample"):
        table.add_column(name, justify="left" if name == "condition" else "right")
    for found in coverages:
        shares = (found.plain, found.recalibrated, found.sampled)
        table.add_row(found.condition, f"{found.streams:,}", *(f"{s:.1%}" for s in shares))
    console.print(table)


def _means(errors: Sequence[Error]) -> dict[str, float]:
    corrupted = [one for one in errors if one.condition != "clean"]
    return {
        name: float(np.mean([abs(getattr(one, name) - one.accuracy) for one in corrupted]))
        for name in ("plain", "expected", "unseen")
    }


def _as_dict(
    whole: Recalibration, errors: Sequence[Error], coverages: Sequence[Coverage]
) -> dict[str, Any]:
    return {
        "model_version": whole.version,
        "validation_images": whole.images,
        "doubt": whole.doubt,
        "mean_absolute_error": _means(errors),
        "errors": [asdict(one) for one in errors],
        "coverage": [asdict(one) for one in coverages],
    }


_INT8 = BUNDLED_MODELS[1]


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("//ml/live:expectation", __doc__)
    add = parser.add_argument
    add("--model", help="model.onnx or a run folder (default: the bundled INT8 model)")
    add("--images", type=count, default=3000, help="images per stream (%(default)s)")
    add("--streams", type=count, default=1000, help="streams for the coverage (%(default)s)")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=0, help="inference threads (0: one per core)")
    add(
        "--out", default="live-expectation", help="folder for predictions and results (%(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal()))
