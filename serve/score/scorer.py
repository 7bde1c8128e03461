"""The predictions of `/predict` for many files: one row per file, errors included.

Threads read and decode while the session runs; each takes a few files at a time, so memory use does
not depend on the number of files.
"""

import hashlib
import os
import stat
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import numpy as np
import pyarrow as pa
from botocore.exceptions import ClientError

from common.aws import error_code
from common.images import Codec, ImageError, Pixels
from serve import errors
from serve.http.bodies import Options
from serve.http.service import prediction, refusal
from serve.inference.predictor import Predictor
from serve.score.listing import s3_client, split_s3, storage_errors
from serve.settings import Settings

_CLASS = pa.struct({"label": pa.string(), "index": pa.int32(), "probability": pa.float64()})
# 64-bit floats, as in the JSON of /predict.
SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "label": pa.string(),
        "index": pa.int32(),
        "confidence": pa.float64(),
        "top_k": pa.list_(_CLASS),
        "probabilities": pa.list_(pa.float64()),
        "error": pa.string(),
        "message": pa.string(),
        "sha256": pa.string(),
        "model_name": pa.string(),
        "model_version": pa.string(),
        "model_digest": pa.string(),
    }
)
MISSING, UNREADABLE = "missing-file", "unreadable-file"  # error kinds that requests cannot have
_REMOTE_READS = 32  # concurrent: each mostly waits for the network
_AHEAD = 4  # groups of files in flight per thread
_OUT_OF_MEMORY = {"error": errors.InternalError.kind, "message": "out of memory"}
_GONE = {"NoSuchKey", "404"}
_DENIED = {"AccessDenied", "403", "InvalidObjectState"}


class ClusterError(Exception):
    """The cluster cannot be reached, or the work ended there; the message says why."""


class FileError(Exception):
    """A file that cannot be read: kind of error, and reason."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Model:
    """The artifact's bytes and session options; can be pickled for other machines."""

    artifact: bytes
    settings: Settings
    top_k: int
    folder: str  # base of relative paths

    @property
    def digest(self) -> str:
        """SHA-256 of the file in hex; the version covers only graph and weights."""
        return hashlib.sha256(self.artifact).hexdigest()


class Scorer:
    """The model, and the codec of `/predict` with the same limits; thread-safe."""

    def __init__(self, model: Model, workers: int) -> None:
        """Opens the session and checks its parity vector.

        Args:
            workers: concurrent threads that decode or predict.

        Raises:
            ArtifactError: the model cannot be served.
        """
        self._predictor = Predictor(model.artifact)
        self._predictor.check()
        self.metadata = self._predictor.metadata
        settings = model.settings
        self._codec = Codec(self.metadata.input_size, settings.max_pixels, self.metadata.resize)
        self._limit, self._folder = settings.max_body_bytes, Path(model.folder)
        self._options = Options(model.top_k, probabilities=True)
        self.digest = model.digest
        self._model = {
            "model_name": self.metadata.name,
            "model_version": self.metadata.version,
            "model_digest": self.digest,
        }
        self._workers, self._busy = workers, BoundedSemaphore(workers)

    def score(
        self, paths: Sequence[str], ranges: Sequence[tuple[int, int]], batch_size: int
    ) -> Generator[tuple[int, pa.Table]]:
        """Result tables with the position of their first path, in order.

        Args:
            ranges: half-open ranges of positions in `paths`.
            batch_size: files per batch.

        Raises:
            StorageError: S3 is unavailable.
        """
        # No read-ahead threads for disks: they would compete for the GIL.
        threads = self._workers
        if any(path.startswith("s3://") for path in paths):
            threads = max(threads, _REMOTE_READS)
        waiting: deque[tuple[int, Future[pa.Table]]] = deque()
        pool = ThreadPoolExecutor(threads, thread_name_prefix="score")
        try:
            for start, end in groups(ranges, batch_size):
                waiting.append((start, pool.submit(self.table, paths[start:end])))
                if len(waiting) == _AHEAD * threads:
                    position, future = waiting.popleft()
                    yield position, future.result()
            for position, future in waiting:
                yield position, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def table(self, paths: Sequence[str]) -> pa.Table:
        """One row per path, in order."""
        files = [self._file(path) for path in paths]
        rows = [row for row, _ in files]
        with self._busy:
            pixels = {
                place: image
                for place, one in enumerate(files)
                if (image := self._decoded(*one)) is not None
            }
            if pixels:
                found = self._predictor(np.stack(list(pixels.values())))
                for place, probabilities in zip(pixels, found, strict=True):
                    rows[place] |= self._answer(probabilities)
        return pa.Table.from_pylist(rows, SCHEMA)

    def _file(self, path: str) -> tuple[dict[str, Any], bytes | None]:
        row = {"path": as_text(path), **self._model}
        try:
            data = self._read(path)
            return row | {"sha256": hashlib.sha256(data).hexdigest()}, data
        except FileError as exc:
            return row | {"error": exc.kind, "message": str(exc)}, None
        except MemoryError:
            return row | _OUT_OF_MEMORY, None

    def _decoded(self, row: dict[str, Any], data: bytes | None) -> Pixels | None:
        """The image, or None after writing the error into the row."""
        if data is None:
            return None
        try:
            return self._codec.decode(data)
        except ImageError as exc:
            row |= {"error": refusal(exc).kind, "message": str(exc)}
        except MemoryError:
            row |= _OUT_OF_MEMORY
        return None

    def _answer(self, probabilities: np.ndarray[Any, np.dtype[np.float32]]) -> dict[str, Any]:
        found = prediction(probabilities, self.metadata.classes, self._options)
        assert isinstance(found.probabilities, dict)
        return {
            "label": found.label,
            "index": found.index,
            "confidence": found.probability,
            "top_k": [
                {"label": one.label, "index": one.index, "probability": one.probability}
                for one in found.top_k
            ],
            "probabilities": list(found.probabilities.values()),
        }

    def _read(self, path: str) -> bytes:
        if path.startswith("s3://"):
            return self._read_object(path)
        try:
            with open(self._folder / Path(path).expanduser(), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise FileError(UNREADABLE, "not a regular file")
                self._check_size(status.st_size)
                return file.read(self._limit)
        except FileNotFoundError as exc:
            raise FileError(MISSING, "no such file") from exc
        except (OSError, ValueError) as exc:  # ValueError: a null byte in the path
            reason = exc.strerror if isinstance(exc, OSError) else None
            raise FileError(UNREADABLE, f"the file cannot be read: {reason or exc}") from exc

    def _read_object(self, url: str) -> bytes:
        bucket, key = split_s3(url)
        with storage_errors(url):
            try:
                answer: Mapping[str, Any] = s3_client().get_object(Bucket=bucket, Key=key)
                self._check_size(answer["ContentLength"])
                return bytes(answer["Body"].read())
            except ClientError as exc:
                if error_code(exc) in _GONE:
                    raise FileError(MISSING, "no such object") from exc
                if error_code(exc) in _DENIED:
                    raise FileError(UNREADABLE, f"the object cannot be read: {exc}") from exc
                raise

    def _check_size(self, size: int) -> None:
        if size > self._limit:
            raise FileError(
                errors.BodyTooLarge.kind,
                f"the file has {size} bytes, expected at most {self._limit} (KILN_MAX_BODY_BYTES)",
            )


def groups(ranges: Sequence[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """Splits the ranges into pieces of at most `size`."""
    for start, end in ranges:
        for first in range(start, end, size):
            yield first, min(first + size, end)


def as_text(path: str) -> str:
    """A path as valid UTF-8: file names may be arbitrary bytes."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
