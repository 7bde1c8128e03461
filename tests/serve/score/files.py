"""Files to score, the program that scores them, and what it wrote."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
import pytest
from moto import mock_aws

from serve.score.listing import s3_client
from tests.serve.serving import MODEL, image_file, pixels

# Parts of five rows; after so many files it waits to be stopped.
_SLOW = """
import sys, time
from itertools import count
from serve.score import main, results, scorer
from common import terminal
terminal.EVERY_S = 0.05
results._ROWS = 5
table, numbers, most = scorer.Scorer.table, count(1), int(sys.argv.pop(1))
def slow(self, paths):
    if next(numbers) > most:
        time.sleep(600 if most else 0.02)
    return table(self, paths)
scorer.Scorer.table = slow
main.run()
"""


def photos(folder: Path, number: int) -> list[Path]:
    """So many small PNG files, all different."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:04d}.png" for index in range(number)]
    for index, path in enumerate(paths):
        path.write_bytes(image_file(pixels(index)))
    return paths


@contextmanager
def s3_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of the empty bucket ``photos`` in moto's S3, which scoring asks, too."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    s3_client.cache_clear()
    with mock_aws():
        client: Any = boto3.client("s3", "us-east-1")
        client.create_bucket(Bucket="photos")
        yield client
    s3_client.cache_clear()


def start(folder: Path, *arguments: str, most: int = 1 << 40) -> subprocess.Popen[str]:
    """The program in a folder; it says every 50 ms how far it is, and stops after `most` files
    until it is killed. With 0 each group of files takes a while."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "KILN_MODEL": str(MODEL.absolute()),
        "BUILD_WORKING_DIRECTORY": str(folder),
    }
    return subprocess.Popen(
        [sys.executable, "-c", _SLOW, str(most), *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file."""
    rows: list[dict[str, Any]] = pq.ParquetFile(path).read().to_pylist()
    return rows


def column(path: Path, name: str) -> Sequence[Any]:
    """One value of each row."""
    return [row[name] for row in rows_of(path)]
