"""Imports, exports, counts and deletes labels of captured predictions.

  bazel run //ml:labels -- status                       # what is captured, and labelled by whom
  bazel run //ml:labels -- import labels.csv            # request_id, label [, index, labeller]
  bazel run //ml:labels -- export --out labels.parquet  # all current labels
  bazel run //ml:labels -- forget 4bf92f3577b34da6a3ce929d0e0e4736

Exit codes: 0 done, 1 nothing of that request was captured, 2 a file, a name or the store cannot be
used and nothing was changed.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from common.captures import Captures, Label, Labeller, usual_location
from common.command_line import command_parser
from common.files import user_path
from common.model.artifact import ArtifactError
from common.objects import StoreError
from common.stores import open_store
from common.terminal import Progress, terminal
from ml.labels.session import Agreement, agreements
from ml.labels.tables import LabelsError, check_labels, class_names, read_table, write_table

NOT_THERE, BAD_INPUT = 1, 2
COLUMNS = ("request_id", "index", "label", "labeller", "time", "propensity", "answer", "model")


@dataclass(frozen=True)
class Status:
    """Counts of captures and labels.

    Attributes:
        versions: captured predictions by model version.
        labels: predictions by the majority's class.
        labellers: number of predictions that each has labelled.
        disagreed: predictions without a majority among their labellers.
        drawn: predictions sampled for the labelling page, which estimates use.
    """

    captured: int
    first: float | None
    last: float | None
    versions: dict[str, int]
    labelled: int
    labels: dict[str, int]
    labellers: dict[str, int]
    disagreed: int
    drawn: int
    agreement: list[Agreement]


def status(captures: Captures) -> Status:
    """Counts a store's contents; labels of deleted predictions are not counted."""
    versions, keys, times = Counter[str](), set[tuple[str, int]](), list[float]()
    with Progress("reading captures"):
        for row in captures.answers():
            versions[row.model_version] += 1
            keys.add(row.key)
            times.append(row.time)
        found = {key: one for key, one in captures.verdicts().items() if key in keys}
    return Status(
        captured=sum(versions.values()),
        first=min(times, default=None),
        last=max(times, default=None),
        versions=dict(versions.most_common()),
        labelled=len(found),
        labels=dict(Counter(one.label for one in found.values() if one.label).most_common()),
        labellers=dict(Counter(name for one in found.values() for name in one.said).most_common()),
        disagreed=sum(one.label is None for one in found.values()),
        drawn=sum(one.propensity is not None for one in found.values()),
        agreement=agreements(found.values()),
    )


def import_table(
    captures: Captures,
    path: Path,
    *,
    labeller: str,
    model: str | None = None,
    registry: str | None = None,
    skip_unknown: bool = False,
    now: float | None = None,
) -> tuple[int, int]:
    """Adds a file's new statements as one object.

    Returns:
        The number added, and the number that existed before.

    Raises:
        LabelsError: a row is invalid; nothing was added.
        StoreError: the store cannot be used.
    """
    rows = read_table(path, labeller, time.time() if now is None else now)
    with Progress("reading captures"):
        known = {row.key: row.model_version for row in captures.answers()}
        latest = {(*label.key, label.labeller): label.label for label in captures.labels()}
    named = {known[row.label.key] for row in rows if row.label.key in known}
    classes = class_names(named or known.values(), model, registry)
    labels = check_labels(path, rows, known, classes, skip_unknown=skip_unknown)
    new = [label for label in labels if latest.get((*label.key, label.labeller)) != label.label]
    if new:
        captures.say_together(new)
    return len(new), len(labels) - len(new)


def export_table(captures: Captures, path: Path) -> int:
    """Writes each labeller's latest statement on each prediction; returns the number of rows."""
    latest: dict[tuple[str, int, str], Label] = {}
    for label in captures.labels():
        latest[(*label.key, label.labeller)] = label
    stated = [label for label in latest.values() if label.label is not None]
    known = {row.key: row for row in captures.answers()}
    rows: list[dict[str, Any]] = []
    for label in sorted(stated, key=lambda one: (*one.key, one.labeller)):
        row = known.get(label.key)
        rows.append(
            {
                **{name: getattr(label, name) for name in COLUMNS[:6]},
                "answer": None if row is None else row.answer,
                "model": None if row is None else row.model_version,
            }
        )
    write_table(path, rows, COLUMNS)
    return len(rows)


def main(arguments: Sequence[str], console: Console) -> int:
    options = _parser().parse_args(arguments)
    try:
        captures = Captures(open_store(options.captures or usual_location()))
        code: int = options.handler(captures, options, console)
        return code
    except (LabelsError, ArtifactError, StoreError, OSError) as exc:
        console.print(str(exc), style="red", markup=False, highlight=False, soft_wrap=True)
        return BAD_INPUT


def labeller_name(text: str) -> str:
    """Argument type of a labeller's name."""
    try:
        return msgspec.convert(text, Labeller)
    except msgspec.ValidationError:
        raise argparse.ArgumentTypeError(
            f"expected lower-case letters, digits, '.', '_' and '-', at most 40, got {text!r}"
        ) from None


def _import(captures: Captures, options: argparse.Namespace, console: Console) -> int:
    new, known = import_table(
        captures,
        user_path(options.file),
        labeller=options.labeller,
        model=options.model,
        registry=options.registry,
        skip_unknown=options.skip_unknown,
    )
    console.print(
        f"{new:,} labels imported, {known:,} said before: {captures.store.url}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _export(captures: Captures, options: argparse.Namespace, console: Console) -> int:
    path = user_path(options.out)
    count = export_table(captures, path)
    console.print(f"{count:,} labels: {path}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _forget(captures: Captures, options: argparse.Namespace, console: Console) -> int:
    # Imports Lightning, which the other commands do not need.
    from ml.data.captured import forget_packed

    request_id = options.request_id.lower()
    count = captures.forget(request_id)
    packed = forget_packed(request_id)
    texts = [f"{count:,} captured predictions of {request_id} deleted, with their labels"]
    texts += [f"deleted, since it held one of them: {folder}" for folder in packed]
    texts += ["Models trained on it are not changed."] if packed else []
    console.print("\n".join(texts), markup=False, highlight=False, soft_wrap=True)
    return 0 if count or packed else NOT_THERE


def _status(captures: Captures, options: argparse.Namespace, console: Console) -> int:
    found = status(captures)
    if options.json:
        console.file.write(json.dumps(asdict(found), indent=2) + "\n")
        return 0
    table = Table(title=f"Captured predictions in {captures.store.url}", title_justify="left")
    table.add_column("what")
    table.add_column("how many", justify="right")
    spans = "" if found.first is None else f", {_day(found.first)} to {_day(found.last)}"
    table.add_row(f"captured{spans}", f"{found.captured:,}")
    for version, count in found.versions.items():
        table.add_row(f"  by model {version[:12]}", f"{count:,}")
    table.add_row("labelled", f"{found.labelled:,}")
    table.add_row("  sampled at random, which estimates use", f"{found.drawn:,}")
    table.add_row("  without a majority among their labellers", f"{found.disagreed:,}")
    for name, count in found.labels.items():
        table.add_row(f"  {name}", f"{count:,}")
    for name, count in found.labellers.items():
        table.add_row(f"by {name}", f"{count:,}")
    for pair in found.agreement:
        kappa = "" if pair.kappa is None else f", Cohen's kappa {pair.kappa:.2f}"
        table.add_row(
            f"{pair.one} and {pair.other} alike{kappa}", f"{pair.same:,} of {pair.both:,}"
        )
    console.print(table, markup=False)
    return 0


def _day(at: float | None) -> str:
    return datetime.fromtimestamp(at or 0.0, UTC).strftime("%Y-%m-%d %H:%M")


def add_captures(parser: argparse.ArgumentParser) -> None:
    """Options of all commands that read captures."""
    add = parser.add_argument
    add(
        "--captures",
        metavar="URL",
        help="a folder or s3://bucket/prefix (default: KILN_CAPTURE, else .kiln/captures)",
    )
    add(
        "--model",
        metavar="FILE",
        help="a model.onnx or run folder with the class names (default: from the registry)",
    )
    add("--registry", metavar="URL", help="registry to look for models (default: KILN_REGISTRY)")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("//ml:labels", __doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, handler, text in (
        ("import", _import, "import labels from a CSV or Parquet file, all or nothing"),
        ("export", _export, "write all labels to a CSV or Parquet file"),
        ("status", _status, "count captures and labels"),
        (
            "forget",
            _forget,
            "delete a request's captures and labels, and packed datasets with them",
        ),
    ):
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:])
        command.set_defaults(handler=handler)
        add_captures(command)
        if name == "import":
            command.add_argument("file", metavar="FILE", help="*.csv or *.parquet")
            command.add_argument(
                "--labeller",
                type=labeller_name,
                default="import",
                metavar="NAME",
                help="labeller of rows without one (default: %(default)s)",
            )
            command.add_argument(
                "--skip-unknown",
                action="store_true",
                help="skip rows of predictions that are not captured, such as deleted ones",
            )
        elif name == "export":
            command.add_argument("--out", default="labels.csv", help="default: %(default)s")
        elif name == "status":
            command.add_argument("--json", action="store_true", help="print JSON")
        else:
            command.add_argument("request_id", metavar="REQUEST_ID")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal()))
