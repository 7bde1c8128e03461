"""Labels in CSV and Parquet files, read completely or not at all, and the classes they may name."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from common.captures import Label
from common.files import write_whole
from common.model.artifact import ArtifactError, ArtifactMetadata, read_artifact
from common.objects import StoreError
from ml.artifact.artifact import BUNDLED_MODELS, model_path
from ml.registry.ledger import RegistryError
from ml.registry.registry import Registry, usual_location


def metadata_of(version: str, registry: str | None = None) -> ArtifactMetadata | None:
    """A model's metadata, if it is registered or bundled."""
    for known in _bundled():
        if known.version == version:
            return known
    try:
        return read_artifact(Registry.open(registry or usual_location()).versions.model(version))
    except (RegistryError, StoreError, ArtifactError):
        return None


def class_names(
    versions: Iterable[str], model: str | None = None, registry: str | None = None
) -> tuple[str, ...]:
    """The class names that all these models share.

    Args:
        versions: model versions.
        model: a model file or run folder whose class names are used, whatever the versions.
        registry: where to look for models (default: its usual location).

    Raises:
        LabelsError: no model is known, or their classes differ.
        ArtifactError: the named model cannot be read.
    """
    if model:
        try:
            return read_artifact(model_path(model).read_bytes()).classes
        except ArtifactError as exc:
            raise ArtifactError(f"{model}: {exc}") from exc
    known = {version: metadata_of(version, registry) for version in sorted(set(versions))}
    names = {metadata.classes for metadata in known.values() if metadata}
    if len(names) == 1:
        return names.pop()
    shown = ", ".join(version[:12] for version in known) or "none"
    what = "have different classes" if names else "are neither registered nor bundled"
    raise LabelsError(
        f"The models of the captured predictions ({shown}) {what}: choose one with --model, a "
        "model.onnx or its run folder"
    )


@cache
def _bundled() -> tuple[ArtifactMetadata, ...]:
    return tuple(read_artifact(file.read_bytes()) for file in BUNDLED_MODELS if file.is_file())


TABLES = (".csv", ".parquet")
REQUIRED = ("request_id", "label")
OPTIONAL = ("index", "labeller")
_LISTED = 10  # problems listed
_EXPECTED = {
    "request_id": "32 hexadecimal digits, the prediction's request_id",
    "index": "a whole number from 0 to 9999",
    "label": "the name of a class",
    "labeller": "lower-case letters, digits, '.', '_' and '-', at most 40",
}


class LabelsError(ValueError):
    """Invalid labels; the message names the file, rows and columns."""


@dataclass(frozen=True)
class Row:
    """A statement of a file, and its row number as spreadsheets show it."""

    number: int
    label: Label


def read_table(path: Path, labeller: str, now: float) -> list[Row]:
    """The statements of a file, in order, without duplicates.

    Args:
        labeller: of rows without one.
        now: time of the statements.

    Raises:
        LabelsError: it cannot be read, lacks a column, or a row is invalid; none of it is used.
    """
    found: dict[tuple[str, int, str], Row] = {}
    problems = []
    for number, row in _rows(path):
        try:
            label = _statement(row, labeller, now)
        except LabelsError as exc:
            problems.append(f"row {number}, {exc}")
            continue
        earlier = found.setdefault((*label.key, label.labeller), Row(number, label))
        if earlier.label.label != label.label:
            problems.append(
                f"row {number}, column label: {label.labeller} says {label.label!r} here and "
                f"{earlier.label.label!r} in row {earlier.number}"
            )
    refuse(path, problems)
    return list(found.values())


def check_labels(
    path: Path,
    rows: Sequence[Row],
    known: Mapping[tuple[str, int], Any],
    classes: Sequence[str],
    *,
    skip_unknown: bool = False,
) -> list[Label]:
    """The labels, if all refer to captured predictions and known classes.

    Args:
        known: captured predictions by key.
        skip_unknown: skips labels of predictions that were not captured or have been deleted.

    Raises:
        LabelsError: names the rows.
    """
    kept, problems, expected = [], [], set(classes)
    for row in rows:
        label = row.label
        if label.label not in expected:
            problems.append(
                f"row {row.number}, column label: {label.label!r} is not one of the classes "
                f"{', '.join(classes[:20])}{', …' if len(classes) > 20 else ''}"
            )
        elif label.key in known:
            kept.append(label)
        elif not skip_unknown:
            problems.append(
                f"row {row.number}, column request_id: no capture has {label.request_id} and index "
                f"{label.index} (--skip-unknown skips such rows)"
            )
    refuse(path, problems)
    return kept


def refuse(path: Path, problems: Sequence[str]) -> None:
    """Raises a LabelsError that lists the problems, if any."""
    if not problems:
        return
    more = [f"… and {len(problems) - _LISTED:,} more"] if len(problems) > _LISTED else []
    raise LabelsError("\n".join([f"{path} cannot be imported:", *problems[:_LISTED], *more]))


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Writes rows as CSV or Parquet, by the file's extension.

    Raises:
        LabelsError: the extension is unknown.
    """
    _check_ending(path)
    if path.suffix.lower() == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(path, text.getvalue())
        return
    # Imported here: takes a third of a second, which other commands do not need.
    import pyarrow as pa
    from pyarrow import parquet

    buffer = io.BytesIO()
    table = pa.table({name: [row[name] for row in rows] for name in columns})
    parquet.write_table(table, buffer)
    write_whole(path, buffer.getvalue())


def _statement(row: Mapping[str, Any], labeller: str, now: float) -> Label:
    values = {name: row.get(name) for name in (*REQUIRED, *OPTIONAL)}
    values["request_id"] = _text(values["request_id"]).lower()
    values["label"] = _text(values["label"])
    values["labeller"] = _text(values["labeller"]) or labeller
    index = _text(values["index"]) or "0"
    values["index"] = int(index) if index.isascii() and index.isdigit() else index
    for name in ("label", "request_id"):
        if not values[name]:
            raise LabelsError(f"column {name}: it is empty, expected {_EXPECTED[name]}")
    try:
        return msgspec.convert({**values, "time": now}, Label)
    except msgspec.ValidationError as exc:
        found = re.search(r"\$\.(\w+)", str(exc))
        name = found[1] if found else "label"
        raise LabelsError(
            f"column {name}: {str(values[name])!r}, expected {_EXPECTED[name]}"
        ) from None


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():  # a Parquet column with nulls
        value = int(value)
    return "" if value is None else str(value).strip()


def _rows(path: Path) -> Iterable[tuple[int, Mapping[str, Any]]]:
    """Rows with numbers as spreadsheets show them: CSV rows start below the header line."""
    _check_ending(path)
    try:
        if path.suffix.lower() == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file, strict=True)
                columns, rows = list(reader.fieldnames or ()), list(reader)
            first = 2
        else:
            from pyarrow import parquet

            table = parquet.read_table(path)
            columns, rows, first = table.column_names, table.to_pylist(), 1
    except (OSError, ValueError, csv.Error) as exc:  # Arrow's errors are ValueErrors or OSErrors
        raise LabelsError(f"{path} cannot be read: {exc}") from exc
    columns = [name.strip() for name in columns]
    if missing := [name for name in REQUIRED if name not in columns]:
        raise LabelsError(
            f"{path} has the columns {', '.join(columns) or 'none'}: {' and '.join(missing)} "
            f"is missing, {' and '.join(OPTIONAL)} are optional"
        )
    return enumerate(
        ({(name or "").strip(): value for name, value in row.items()} for row in rows), first
    )


def _check_ending(path: Path) -> None:
    if path.suffix.lower() not in TABLES:
        raise LabelsError(f"{path} ends in {path.suffix or 'nothing'}: expected .csv or .parquet")
