"""Scores image files with the model that the service serves: the answers of /predict, in a table.

    bazel run //serve:score -- photos/ --out predictions.parquet
    bazel run //serve:score -- 'photos/**/*.jpg' one.png --out predictions.csv
    bazel run //serve:score -- s3://bucket/prefix --out predictions.jsonl
    bazel run //serve:score -- paths.parquet --column file --out predictions.parquet
    find photos -newer last.parquet | bazel run //serve:score -- - --out new.parquet

In folders, patterns and buckets, files that are no images by name are skipped; what is named by
itself, in a table or on standard input is always tried. A file that cannot be scored is a row with
its error. Whenever the command is stopped, by Ctrl-C or otherwise, the same command goes on.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
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
    """Scores what the arguments name; the exit code."""
    options = _options(arguments)
    try:
        return _score(options)
    except KeyboardInterrupt:
        _say("interrupted: the same command goes on")
        return _INTERRUPTED


def run() -> NoReturn:
    """The program: ends without waiting for threads that still read, from a disk that hangs say."""
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell's background ignores the latter
        signal.signal(number, signal.default_int_handler)
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _score(options: argparse.Namespace) -> int:
    # They take a second; --help does without.
    from common.model.artifact import ArtifactError
    from serve.score.listing import ListingError, StorageError
    from serve.score.results import Parts, ResultsError
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
                _say(f"goes on: {parts.rows:,} of {len(paths):,} files are done")
            begun = True
            with closing(scorer.score(paths, ranges, options.batch_size)) as tables:
                rate = _work(parts, tables, len(paths), progress)
            progress.begin("writing the output", len(paths))
            parts.merge(_described(scorer), progress.update)
    except (ArtifactError, SettingsError, ListingError) as exc:
        _say(f"error: {exc}")
        return _MISTAKE
    except (ResultsError, StorageError) as exc:
        _say(f"error: {exc}" + ("; the same command goes on" if begun else ""))
        return _FAILED if begun else _MISTAKE
    return _summary(parts, rate, options)


def _opened(options: argparse.Namespace) -> tuple[Model, Scorer]:
    """The model and the limits that the service would have.

    Raises:
        ArtifactError: it cannot be served.
        SettingsError: a variable is wrong.
    """
    from msgspec.structs import replace

    from common.model.artifact import ArtifactError
    from serve.inference.model_path import model_path
    from serve.score.scorer import Model, Scorer
    from serve.settings import Settings

    settings = Settings.from_environment()
    if options.model:
        settings = replace(settings, model=Path(options.model))
    # Of several precisions not the one that is measured to be faster: tomorrow it may be another.
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
        ListingError: an input is wrong, or the output would replace it.
        StorageError: S3 does not answer.
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
        _say(f"skipped {listing.skipped:,} files that are no images by name")
    if listing.repeated:
        _say(f"left out {listing.repeated:,} paths that were named before")
    return listing.paths


def _work(
    parts: Parts, tables: Iterable[tuple[int, pa.Table]], total: int, progress: Progress
) -> float:
    """Keeps the tables as they come, also when it is stopped; images a second."""
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
    """What decides the answers."""
    settings = model.settings
    return {
        "model": model.digest,
        "top_k": model.top_k,
        "max_pixels": settings.max_pixels,
        "max_body_bytes": settings.max_body_bytes,
    }


def _described(scorer: Scorer) -> dict[str, Any]:
    """What the output says of its model."""
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


def _output(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in _SUFFIXES:
        raise argparse.ArgumentTypeError(
            f"{text} is of no kind that is written here: expected {', '.join(_SUFFIXES)}"
        )
    return path


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bazel run //serve:score --",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="folder, file, quoted pattern, s3://bucket/prefix, .parquet, .csv or .tsv of paths, "
        "or - for paths on standard input, one a line; relative paths start here",
    )
    parser.add_argument(
        "--out",
        type=_output,
        required=True,
        metavar="FILE",
        help="its suffix says what is written: .parquet, .csv or .jsonl",
    )
    parser.add_argument("--column", default="path", help="of the tables (default: path)")
    parser.add_argument(
        "--model", metavar="PATH", help="a model.onnx (default: what //serve:api serves)"
    )
    parser.add_argument(
        "--top-k", type=_between(1, 1000), default=3, help="classes to name (default: 3)"
    )
    parser.add_argument("--limit", type=_between(1, 2**63), help="only the first so many files")
    parser.add_argument(
        "--workers",
        type=_between(1, 256),
        default=available_cpus(),
        help="threads that compute (default: one for each CPU)",
    )
    parser.add_argument(
        "--batch-size",
        type=_between(1, 4096),
        default=64,
        help="files that a thread takes at a time (default: 64)",
    )
    parser.add_argument(
        "--restart", action="store_true", help="forget what an interrupted run has done"
    )
    parser.add_argument(
        "--fail-on-error", action="store_true", help="exit with 1 if a file has an error"
    )
    return parser.parse_args(arguments)


_EPILOG = """\
Columns: path, label, index, confidence, top_k, probabilities, error, message, sha256 of the file,
model_name, model_version, model_digest. Numbers are those of /predict, digit for digit; error is
null or what /predict would answer (unsupported-image, unreadable-image, image-too-large,
body-too-large), or missing-file, unreadable-file.

Limits are those of the service: KILN_MAX_PIXELS, KILN_MAX_BODY_BYTES. S3 is found as the AWS
command line finds it; AWS_ENDPOINT_URL names another store.

Exit code: 0, also if files have errors; 1 if the work failed midway (or --fail-on-error); 2 if
there was nothing to begin with; 130 if it was interrupted.
"""


if __name__ == "__main__":
    run()
