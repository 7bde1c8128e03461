"""The list of files to score, in order and without duplicates: from folders, patterns, S3, tables
of paths, and lines of text.
"""

import csv
import fnmatch
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

from common.files import user_path
from common.images import DECODED, NOT_DECODED

TABLES = (".csv", ".tsv", ".parquet")
STANDARD_INPUT = "-"
_S3 = "s3://"
_PATTERN = "*?["  # marks of a pattern
_CONNECTIONS = 64  # concurrent requests to S3
_ADVICE = {
    "NoSuchBucket": "check the bucket's name and region",
    "AccessDenied": "grant s3:ListBucket and s3:GetObject",
    "": "check the address and the permissions, then repeat the command to resume",
}


class ListingError(ValueError):
    """Nothing can be scored; the message names the wrong input and what was expected."""


class StorageError(Exception):
    """S3 is unavailable, as opposed to a single unreadable object."""


@dataclass
class Listing:
    """Paths as the user wrote them."""

    paths: list[str] = field(default_factory=list)
    skipped: int = 0  # skipped for their extension
    repeated: int = 0  # duplicates


def list_files(
    inputs: Sequence[str],
    lines: TextIO,
    *,
    column: str = "path",
    limit: int | None = None,
    note: Callable[[int], None] = lambda _: None,
) -> Listing:
    """Lists the inputs in their order; folders by name, files before subfolders.

    Args:
        inputs: files, folders, patterns, s3:// URLs, tables; ``-`` stands for `lines`.
        column: the tables' column of paths.
        limit: maximum number of paths.
        note: called now and then with the number found so far.

    Raises:
        ListingError: an input is wrong, or there is no image at all.
        StorageError: S3 is unavailable.
    """
    listing = Listing()
    seen: set[str] = set()
    for path in chain.from_iterable(_listed(one, lines, column, listing) for one in inputs):
        if path in seen:
            listing.repeated += 1
            continue
        seen.add(path)
        listing.paths.append(path)
        if len(listing.paths) == limit:
            break
        if len(listing.paths) % 1000 == 0:
            note(len(listing.paths))
    if not listing.paths:
        others = f"; {listing.skipped} files have no image extension" if listing.skipped else ""
        raise ListingError(f"no image in {', '.join(inputs)}{others}")
    return listing


def _listed(one: str, lines: TextIO, column: str, listing: Listing) -> Iterator[str]:
    if one == STANDARD_INPUT:
        return (line.rstrip("\r\n") for line in lines if line.strip())
    if one.startswith(_S3):
        return _objects(one, listing)
    path = user_path(one)
    if "://" in one and not path.exists():
        raise ListingError(f"{one} is not supported: expected a path or s3://…")
    if path.is_dir():
        return _below(path, one, listing)
    if path.suffix.lower() in TABLES and path.exists():
        return _column(path, column)
    if os.path.lexists(path):
        return iter([one])
    if any(letter in one for letter in _PATTERN):
        return _matches(one, listing)
    raise ListingError(f"{one} does not exist: expected a file, a folder, a pattern or s3://…")


def _is_image(name: str, listing: Listing) -> bool:
    """Whether it has an image's extension; ``._photo.jpg`` is macOS metadata beside a photo."""
    is_image = name.lower().endswith(DECODED + NOT_DECODED) and not name.startswith(".")
    listing.skipped += not is_image
    return is_image


def _below(folder: Path, shown: str, listing: Listing) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise ListingError(f"the folder {error.filename} cannot be read: {error.strerror}")

    visited = set()
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in visited:  # a symbolic link cycle
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inner = os.path.relpath(parent, folder)
        for name in sorted(names):
            if _is_image(name, listing):
                yield os.path.normpath(os.path.join(shown, inner, name))


def _matches(pattern: str, listing: Listing) -> Iterator[str]:
    root = user_path(".")
    expanded = os.path.expanduser(pattern)
    matches = sorted(glob.glob(expanded, root_dir=root, recursive=True))
    if not matches:
        raise ListingError(f"no file matches the pattern {pattern}")
    for match in matches:
        if (root / match).is_dir():
            if "**" not in pattern:  # the pattern matches the folder's content, too
                yield from _below(root / match, match, listing)
        elif _is_image(os.path.basename(match), listing):
            yield os.path.normpath(match)


def _objects(url: str, listing: Listing) -> Iterator[str]:
    """The object with this key, the objects below it, or those that match a pattern."""
    bucket, key = split_s3(url)
    is_pattern = any(letter in key for letter in _PATTERN)
    first = min((key.find(letter) for letter in _PATTERN if letter in key), default=len(key))
    below = key if key.endswith("/") or not key else f"{key}/"
    pages = s3_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key[:first])
    with storage_errors(url):
        for page in pages:
            for item in page.get("Contents", ()):
                name = str(item["Key"])
                inner = fnmatch.fnmatchcase(name, key) if is_pattern else name.startswith(below)
                if name.endswith("/"):  # folder marker object
                    continue
                if name == key or (inner and _is_image(name.rpartition("/")[2], listing)):
                    yield f"{_S3}{bucket}/{name}"


def _column(table: Path, column: str) -> Iterator[str]:
    values = _parquet_column if table.suffix.lower() == ".parquet" else _csv_column
    try:
        for number, value in enumerate(values(table, column), start=1):
            if not isinstance(value, str) or not value:
                raise ListingError(
                    f"{table}: row {number} has {value!r} in the column {column}, expected a path"
                )
            yield value
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise ListingError(f"the table {table} cannot be read: {exc}") from exc


def _csv_column(table: Path, column: str) -> Iterator[str | None]:
    delimiter = "\t" if table.suffix.lower() == ".tsv" else ","
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter=delimiter)
        _check_column(table, column, list(rows.fieldnames or ()))
        for row in rows:
            yield row[column]


def _parquet_column(table: Path, column: str) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(table) as file:
            _check_column(table, column, file.schema_arrow.names)
            for batch in file.iter_batches(columns=[column]):
                yield from batch.column(0).to_pylist()
    except pa.ArrowException as exc:
        raise ListingError(f"the table {table} is not a Parquet file: {exc}") from exc


def _check_column(table: Path, column: str, names: Sequence[str]) -> None:
    if column not in names:
        raise ListingError(
            f"{table} has no column {column}, it has {', '.join(names)}: choose one by --column"
        )


def split_s3(url: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``.

    Raises:
        ListingError: it names no bucket.
    """
    bucket, _, key = url.removeprefix(_S3).partition("/")
    if not bucket or urlsplit(url).netloc != bucket:
        raise ListingError(f"{url} names no bucket: expected s3://bucket/prefix")
    return bucket, key


@cache
def s3_client() -> Any:
    """A client that all threads share, with a connection for each."""
    import boto3
    from botocore.config import Config

    from common.aws import addressing

    config = Config(
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard"},
        max_pool_connections=_CONNECTIONS,
        s3=addressing(),
    )
    with storage_errors("S3"):
        session = boto3.session.Session()
        return session.client("s3", region_name=session.region_name or "us-east-1", config=config)


def storage_errors(what: str) -> Any:
    """Translates boto3's errors into `StorageError`."""
    from common.aws import aws_errors

    return aws_errors(what, StorageError, _ADVICE)
