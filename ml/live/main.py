"""Live quality of the serving models: estimated accuracy of captured predictions and accuracy by
labels, over time and by class, compared with the accuracy on the test images.

Without labels, accuracy is estimated from the model's probabilities, recalibrated on randomly
shifted validation images. The first run for a version takes minutes for that; the result is cached.
With labels, accuracy is measured.

  bazel run //ml:live                       # captures in KILN_CAPTURE or .kiln/captures
  bazel run //ml:live -- --captures s3://bucket/prefix --since 7d --html live.html
  bazel run //ml:live -- --model runs/<folder> --json
  bazel run //ml:live -- --otlp             # metrics for OTEL_EXPORTER_OTLP_ENDPOINT

Exit codes: 0 the latest version keeps its promised accuracy, or that is unknown; 2 bad input; 3 the
whole interval of its accuracy, of all predictions or of the last window, is below the promise; 4 no
captured predictions.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from common.captures import Captures
from common.captures import usual_location as usual_captures
from common.command_line import command_parser, share_or_none
from common.files import user_path, write_whole
from common.objects import StoreError
from common.stores import open_store
from common.terminal import Progress, terminal
from ml.artifact.artifact import ArtifactError, model_path
from ml.data.cifar10 import DatasetError
from ml.data.fetch import FetchError
from ml.live import report
from ml.live.quality import Known, Model, Quality, find_model, gather, quality
from ml.live.recalibration import Recalibration, recalibrate
from ml.live.report import as_dict, print_quality, summarised
from ml.registry.explanation import usual_folder, write_summary
from ml.registry.ledger import RegistryError
from ml.registry.registry import Registry, usual_location

BELOW, NOTHING, BAD_INPUT = 3, 4, 2
_UNITS = {"m": 60, "h": 3600, "d": 86400}


def main(arguments: Sequence[str], console: Console) -> int:
    options = _parser().parse_args(arguments)
    try:
        if options.otlp:
            report.check_endpoint()
        found = measure(options)
    except (ArtifactError, DatasetError, RegistryError, StoreError, OSError, ValueError) as exc:
        print(exc, file=sys.stderr)
        return BAD_INPUT
    if not found:
        span = f" of the last {options.since}" if options.since else ""
        print(f"{options.captures} has no captured predictions{span}", file=sys.stderr)
        return NOTHING
    for one in found:
        write_summary(summarised(one, time.time()), _folder(options))
    if options.json:
        print(json.dumps([as_dict(one) for one in found], indent=2, allow_nan=False))
    else:
        for one in found:
            print_quality(one, console)
    if options.html or options.png:
        from ml.live.page import picture, render  # imports Matplotlib

        for path, make in ((options.html, render), (options.png, picture)):
            if path:
                write_whole(user_path(path), make(found))
                print(user_path(path), file=sys.stderr)
    if options.otlp and not report.export(found):
        print("the collector took no metrics: nothing was exported", file=sys.stderr)
    if options.cloudwatch:
        _put(found)
    return BELOW if found[0].says == "below the promise" else 0


def _put(found: Sequence[Quality]) -> None:
    import boto3  # slow to import

    try:
        report.put(found, boto3.client("cloudwatch"))
    except Exception as exc:  # boto3 has many; metrics must not change the verdict
        print(f"CloudWatch took no metrics ({type(exc).__name__}: {exc})", file=sys.stderr)


def measure(options: argparse.Namespace) -> list[Quality]:
    """Live quality of each version, the latest first.

    Raises:
        ArtifactError, DatasetError, RegistryError, StoreError, OSError, ValueError: the input
            cannot be used.
    """
    captures = Captures(open_store(options.captures))
    files = [model_path(text) for text in options.model]
    registry = Registry.open(str(options.registry))
    since = time.time() - _seconds(options.since) if options.since else 0.0

    with Progress("reading captures", console=Console(stderr=True)) as progress:

        def known(version: str) -> Known:
            model = find_model(version, files, registry, options.threads)
            if model is None:
                return Known(None, None, "its model is in no file and no registry at hand")
            if options.plain:
                return Known(model, None, "--plain")
            found, note = recalibration_of(model, _folder(options), progress)
            progress.begin("reading captures")
            return Known(model, found, note)

        seen = gather(captures.rows(since), known, progress.advance)
        if options.version:
            wanted = [version for version in seen if version.startswith(options.version)]
            if seen and not wanted:
                raise ValueError(f"no captured answer is of a version {options.version}")
        else:
            wanted = list(seen)
        verdicts = captures.verdicts()
        found = [quality(version, seen, verdicts, options.margin) for version in wanted]
    return sorted(found, key=lambda one: one.whole.end, reverse=True)


def recalibration_of(
    model: Model, folder: Path, progress: Progress
) -> tuple[Recalibration | None, str]:
    """The cached recalibration of a model, or a new one, which is then cached; or the reason why
    there is none.
    """
    path = folder / f"{model.version}.npz"
    if kept := Recalibration.load(path, model.version):
        return kept, ""
    try:
        held_out = model.held_out()
    except (DatasetError, FetchError) as exc:
        return None, " ".join(str(exc).split())
    made = recalibrate(model.artifact, held_out, progress)
    made.save(path)
    return made, ""


def _folder(options: argparse.Namespace) -> Path:
    return user_path(options.cache) if options.cache else usual_folder()


def _seconds(text: str) -> float:
    return int(text[:-1]) * float(_UNITS[text[-1]])


def _span(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d{0,5}[mhd]", text):
        raise argparse.ArgumentTypeError(f"expected a span as 90m, 24h or 7d, got {text}")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("//ml:live", __doc__)
    add = parser.add_argument
    add(
        "--captures",
        metavar="URL",
        default=usual_captures(),
        help="folder or s3://bucket/prefix (%(default)s)",
    )
    add(
        "--registry",
        metavar="URL",
        default=usual_location(),
        help="registry to look for models (%(default)s)",
    )
    add(
        "--model",
        metavar="FILE",
        action="append",
        default=[],
        help="model.onnx or run folder to try first; bundled models are known",
    )
    add("--version", metavar="DIGITS", help="only versions with this prefix")
    add(
        "--since",
        metavar="SPAN",
        type=_span,
        help="only predictions of the last 90m, 24h or 7d (default: all)",
    )
    add(
        "--margin",
        type=share_or_none,
        default=0.02,
        help="promised accuracy: that on the test images minus this margin (%(default)s)",
    )
    add("--plain", action="store_true", help="use the model's confidence without recalibration")
    add("--json", action="store_true", help="print JSON")
    add("--html", metavar="FILE", help="write a self-contained HTML page")
    add("--png", metavar="FILE", help="write its plot as PNG")
    add("--otlp", action="store_true", help="export metrics to OTEL_EXPORTER_OTLP_ENDPOINT")
    add("--cloudwatch", action="store_true", help="put metrics into CloudWatch")
    add(
        "--cache",
        metavar="FOLDER",
        help="folder for recalibrations and summaries (default: KILN_LIVE, else .kiln/live)",
    )
    add("--threads", type=int, default=0, help="inference threads (0: one per core)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal()))
