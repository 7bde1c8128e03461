"""Scores image files with the service's model: the predictions of /predict as a table.

    bazel run //serve:score -- photos/ --out predictions.parquet
    bazel run //serve:score -- 'photos/**/*.jpg' one.png --out predictions.csv
    bazel run //serve:score -- s3://bucket/prefix --out predictions.jsonl
    bazel run //serve:score -- paths.parquet --column file --out predictions.parquet
    find photos -newer last.parquet | bazel run //serve:score -- - --out new.parquet

    bazel run //serve:score_on_ray -- s3://bucket/prefix --out predictions.parquet --ray head:6379

In folders, patterns and buckets, files without an image extension are skipped; files named
directly, in a table or on standard input are always tried. A file that cannot be scored becomes a
row with its error. An interrupted command resumes when it is run again.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from common.files import user_path
from common.resources import available_cpus
from common.terminal import Progress

if TYPE_CHECKING:
    import pyarrow as pa

    from serve.score.results import Parts
    from serve.score.scorer import Model, Scorer

_FAILED, _MISTAKE, _INTERRUPTED = 1, 2, 130  # exit codes
_SUFFIXES = (".parquet", ".csv", ".jsonl")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    try:
        return _score(options)
    except KeyboardInterrupt:
        _say("interrupted: run the same command to resume")
        return _INTERRUPTED


def run() -> NoReturn:
    """The program. Exits without joining reader threads, which may hang with their disk."""
    for number in (signal.SIGTERM, signal.SIGINT):  # shells ignore SIGINT in background jobs
        signal.signal(number, signal.default_int_handler)
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _score(options: argparse.Namespace) -> int:
    # Imported late: they take a second, which --help does without.
    from common.model.artifact import ArtifactError
    from serve.score.listing import ListingError, StorageError
    from serve.score.results import Parts, ResultsError
    from serve.score.scorer import ClusterError
    from serve.settings import SettingsError

    begun = False
    try:
        with ExitStack() as stack:
            progress = stack.enter_context(Progress("listing files"))
            model, scorer = _opened(options)
            paths = _listed(options, progress)
            output = user_path(options.out)
            parts = stack.enter_context(Parts(output, restart=options.restart))
            parts.made_from(_facts(model))
            ranges = parts.missing(paths)
            if parts.rows:
                _say(f"resuming: {parts.rows:,} of {len(paths):,} files are done")
            begun = True
            with closing(_tables(options, model, scorer, paths, ranges)) as tables:
                rate = _work(parts, tables, len(paths), progress)
            progress.begin("writing the output", len(paths))
            parts.merge(_described(scorer), progress.update)
    except (ArtifactError, SettingsError, ListingError) as exc:
        _say(f"error: {exc}")
        return _MISTAKE
    except (ClusterError, ResultsError, StorageError) as exc:
        _say(f"error: {exc}" + ("; run the same command to resume" if begun else ""))
        return _FAILED if begun else _MISTAKE
    return _summary(parts, rate, options)


def _opened(options: argparse.Namespace) -> tuple[Model, Scorer]:
    """The model and the limits as the service would have them.

    Raises:
        ArtifactError: it cannot be served.
        SettingsError: a variable is invalid.
    """
    from msgspec.structs import replace

    from common.model.artifact import ArtifactError
    from serve.inference.model_path import model_path
    from serve.score.scorer import Model, Scorer
    from serve.settings import Settings

    settings = Settings.from_environment()
    if options.model:
        settings = replace(settings, model=Path(options.model))
    # Of several precisions, the default one, not the one measured as fastest: that may change
    # between runs.
    path = model_path(settings, lambda paths, _: paths[0])
    try:
        folder = str(user_path(".").absolute())
        model = Model(path.read_bytes(), settings, options.top_k, folder)
        return model, Scorer(model, options.workers)
    except OSError as exc:
        raise ArtifactError(f"cannot read the model {path}: {exc.strerror}") from exc
    except ArtifactError as exc:
        raise ArtifactError(f"cannot serve {path}: {exc}") from exc


def _listed(options: argparse.Namespace, progress: Progress) -> list[str]:
    """The paths to score.

    Raises:
        ListingError: an input is wrong, or the output would overwrite it.
        StorageError: S3 is unavailable.
    """
    from serve.score.listing import ListingError, list_files

    output = user_path(options.out)
    if output.exists() and any(
        one != "-" and user_path(one).exists() and output.samefile(user_path(one))
        for one in options.inputs
    ):
        raise ListingError(f"{options.out} is an input, too: name another --out")
    listing = list_files(
        options.inputs,
        sys.stdin,
        column=options.column,
        limit=options.limit,
        note=lambda found: progress.update(detail=f"{found:,} found"),
    )
    if listing.skipped:
        _say(f"skipped {listing.skipped:,} files without an image extension")
    if listing.repeated:
        _say(f"left out {listing.repeated:,} duplicate paths")
    return listing.paths


def _tables(
    options: argparse.Namespace,
    model: Model,
    scorer: Scorer,
    paths: Sequence[str],
    ranges: Sequence[tuple[int, int]],
) -> Generator[tuple[int, pa.Table]]:
    """The rows as they are scored, on this machine or on a cluster."""
    if not options.ray:
        return scorer.score(paths, ranges, options.batch_size)
    from serve.score.cluster import score_on_cluster

    return score_on_cluster(options.ray, model, paths, ranges, options.batch_size)


def _work(
    parts: Parts, tables: Iterable[tuple[int, pa.Table]], total: int, progress: Progress
) -> float:
    """Writes the result tables as they come, also when interrupted; returns images per second."""
    before, start = parts.rows, time.monotonic()
    rate = 0.0
    progress.begin("scoring", total, completed=before)
    try:
        for position, table in tables:
            parts.add(position, table)
            rate = (parts.rows - before) / max(time.monotonic() - start, 1e-9)
            errors = sum(parts.errors.values())
            progress.update(parts.rows, detail=f"{rate:,.0f} images/s  {errors:,} errors")
    finally:
        parts.flush()
    return rate


def _facts(model: Model) -> dict[str, Any]:
    """Everything that determines the results."""
    settings = model.settings
    return {
        "model": model.digest,
        "top_k": model.top_k,
        "max_pixels": settings.max_pixels,
        "max_body_bytes": settings.max_body_bytes,
    }


def _described(scorer: Scorer) -> dict[str, Any]:
    metadata = scorer.metadata
    return {
        "name": metadata.name,
        "version": metadata.version,
        "digest": scorer.digest,
        "classes": list(metadata.classes),
    }


def _summary(parts: Parts, rate: float, options: argparse.Namespace) -> int:
    failed = sum(parts.errors.values())
    kinds = sorted(parts.errors.items(), key=lambda item: (-item[1], item[0]))
    print(f"{options.out}: {parts.rows:,} files, {failed:,} with an error, {rate:,.0f} images/s")
    for kind, count in kinds:
        print(f"{count:>10,}  {kind}")
    return _FAILED if failed and options.fail_on_error else 0


def _say(text: str) -> None:
    sys.stderr.write(f"kiln: {text}\n")


def _between(low: int, high: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        number = int(text)
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"expected {low} to {high}, got {text}")
        return number

    return whole_number


def _with_ray(text: str) -> str:
    if find_spec("ray") is None:
        raise argparse.ArgumentTypeError(
            "this program carries no Ray: use //serve:score_on_ray instead of //serve:score"
        )
    return text


def _output(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in _SUFFIXES:
        raise argparse.ArgumentTypeError(
            f"{text} is not supported: expected {', '.join(_SUFFIXES)}"
        )
    return path


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bazel run //serve:score --",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="folder, file, quoted pattern, s3://bucket/prefix, .parquet, .csv or .tsv of paths, "
        "or - for paths on standard input, one per line",
    )
    add(
        "--out",
        type=_output,
        required=True,
        metavar="FILE",
        help="format by suffix: .parquet, .csv or .jsonl",
    )
    add("--column", default="path", help="column of paths in tables (default: path)")
    add("--model", metavar="PATH", help="model.onnx to use (default: that of //serve:api)")
    add("--top-k", type=_between(1, 1000), default=3, help="number of top classes (default: 3)")
    add("--limit", type=_between(1, 2**63), help="score only the first N files")
    add(
        "--workers",
        type=_between(1, 256),
        default=available_cpus(),
        help="compute threads (default: one per CPU)",
    )
    add("--batch-size", type=_between(1, 4096), default=64, help="files per batch (default: 64)")
    add(
        "--ray",
        type=_with_ray,
        metavar="ADDRESS",
        help="score on this Ray cluster, with a worker on each of its CPUs: host:6379, or auto "
        "(needs //serve:score_on_ray; the machines see files under the same paths)",
    )
    add("--restart", action="store_true", help="discard the results of an interrupted run")
    add("--fail-on-error", action="store_true", help="exit with code 1 if a file has an error")
    return parser.parse_args(arguments)


_EPILOG = """\
Columns: path, label, index, confidence, top_k, probabilities, error, message, sha256 of the file,
model_name, model_version, model_digest. Numbers equal those of /predict, digit for digit; error is
null or what /predict would answer (unsupported-image, unreadable-image, image-too-large,
body-too-large), or missing-file, unreadable-file.

Limits are those of the service: KILN_MAX_PIXELS, KILN_MAX_BODY_BYTES. S3 is found as the AWS
command line finds it; AWS_ENDPOINT_URL names another store.

Exit code: 0, also if files have errors; 1 if the work failed midway (or --fail-on-error); 2 if
there was nothing to begin with; 130 if it was interrupted.
"""


if __name__ == "__main__":
    run()
