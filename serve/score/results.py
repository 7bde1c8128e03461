"""Results on disk: parts beside the output that survive a kill, and the merged output."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.files import write_whole
from serve.score.scorer import SCHEMA, as_text

_ROWS, _SECONDS = 4096, 10.0  # limits of a part, whichever is reached first
_GROUP_BYTES = 16 << 20  # Rows merged at a time, at about this size each:
_ROW_BYTES, _CLASS_BYTES = 512, 8
_MADE_FROM = "made_from.json"
_CHOICES = "--restart scores everything again, another --out leaves what is done"


class ResultsError(Exception):
    """The output cannot be written, or belongs to another command; the message says what to do."""


class Parts:
    """The folder ``OUTPUT.parts``: finished rows, with the files and the model they are of.

    A part holds the rows of consecutive paths, named by their positions, and is written atomically.
    A later run with the same paths skips what it finds. The folder is locked while the context is
    open.
    """

    def __init__(self, output: Path, *, restart: bool = False) -> None:
        """Creates and locks the folder.

        Args:
            restart: discards finished rows.

        Raises:
            ResultsError: it cannot be written, or another run is writing it.
        """
        self.output, self.folder = output, output.with_name(output.name + ".parts")
        self.errors: dict[str, int] = {}  # number of files by kind of error
        self.rows = 0
        self._held: list[tuple[int, pa.Table]] = []
        self._since = time.monotonic()
        if output.is_dir():
            raise ResultsError(f"{output} is a folder, expected a file to write")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / ".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if restart:
                for path in self.folder.glob("*.*"):
                    if path.name != ".lock":
                        path.unlink()
        except BlockingIOError as exc:
            self._lock.close()
            raise ResultsError(f"another run is writing {output}: wait until it ends") from exc
        except OSError as exc:
            raise ResultsError(f"cannot write {output}: {exc.strerror}") from exc

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def made_from(self, facts: Mapping[str, Any]) -> None:
        """Records what determines the results, or compares it with the record.

        Raises:
            ResultsError: names the difference.
        """
        path = self.folder / _MADE_FROM
        text = json.dumps(facts, indent=2) + "\n"
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            self._write(path, text.encode())
            return
        if changed := [
            f"{name} {before.get(name)!r} and is now {facts.get(name)!r}"
            for name in facts | before
            if before.get(name) != facts.get(name)
        ]:
            raise ResultsError(f"{self.output} was begun with {'; '.join(changed)}: {_CHOICES}")

    def missing(self, paths: Sequence[str]) -> list[tuple[int, int]]:
        """The ranges of positions in `paths` without a part; removes parts of other paths.

        Raises:
            ResultsError: all parts are of other paths.
        """
        ranges, position, stale = list[tuple[int, int]](), 0, list[Path]()
        for start, end, path in self._files():
            done = _outcome(path)
            names = [as_text(one) for one in paths[start:end]]
            if start < position or done is None or done["path"].to_pylist() != names:
                stale.append(path)
                continue
            self._count(done)
            if position < start:
                ranges.append((position, start))
            position = end
        if stale and not self.rows:
            raise ResultsError(f"{self.output} was begun with other files: {_CHOICES}")
        for path in stale:
            path.unlink()
        return [*ranges, (position, len(paths))] if position < len(paths) else ranges

    def add(self, start: int, table: pa.Table) -> None:
        """Adds rows from a position on; writes a part when there are enough.

        Raises:
            ResultsError: the part cannot be written.
        """
        self._count(table)
        if self._held and sum(self._span()) != start:
            self.flush()
        self._held.append((start, table))
        if self._span()[1] >= _ROWS or time.monotonic() - self._since > _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes pending rows.

        Raises:
            ResultsError: the part cannot be written.
        """
        if self._held:
            start, rows = self._span()
            file = io.BytesIO()
            pq.write_table(pa.concat_tables(table for _, table in self._held), file)
            self._write(self._path(start, start + rows), file.getvalue())
            self._held.clear()
        self._since = time.monotonic()

    def merge(self, model: Mapping[str, Any], note: Callable[[int], None]) -> None:
        """Merges all parts into the output, then removes them.

        Args:
            model: metadata for the output; ``classes`` names the probabilities.
            note: called with the number of rows written.

        Raises:
            ResultsError: the output cannot be written.
        """
        aside = self.folder / "merged.unfinished"
        size = _GROUP_BYTES // (_ROW_BYTES + _CLASS_BYTES * len(model["classes"]))
        try:
            with aside.open("wb") as file:
                written = 0
                with WRITERS[self.output.suffix.lower()](file, model) as write:
                    for table in self._groups(max(1, size)):
                        write(table)
                        written += table.num_rows
                        note(written)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, self.output)
        except OSError as exc:
            raise ResultsError(f"cannot write {self.output}: {exc.strerror}") from exc
        shutil.rmtree(self.folder, ignore_errors=True)

    def _span(self) -> tuple[int, int]:
        """First position and number of pending rows."""
        return self._held[0][0], sum(table.num_rows for _, table in self._held)

    def _count(self, table: pa.Table) -> None:
        self.rows += table.num_rows
        for one in pc.value_counts(table["error"].drop_null()).to_pylist():
            self.errors[one["values"]] = self.errors.get(one["values"], 0) + one["counts"]

    def _path(self, start: int, end: int) -> Path:
        return self.folder / f"{start:012d}-{end:012d}.parquet"

    def _files(self) -> list[tuple[int, int, Path]]:
        found = []
        for path in sorted(self.folder.glob("*-*.parquet")):
            start, end = path.stem.split("-")
            found.append((int(start), int(end), path))
        return found

    def _groups(self, size: int) -> Iterator[pa.Table]:
        """All rows in tables of `size`, independent of the parts' boundaries: interruptions do not
        change the output's bytes.
        """
        held, rows = list[pa.Table](), 0
        for _, _, path in self._files():
            held.append(pq.read_table(path, schema=SCHEMA))
            rows += held[-1].num_rows
            while rows >= size:
                whole = pa.concat_tables(held)
                yield whole.slice(0, size)
                held, rows = [whole.slice(size)], rows - size
        if rows:
            yield pa.concat_tables(held)

    def _write(self, path: Path, data: bytes) -> None:
        try:
            write_whole(path, data)
        except OSError as exc:
            raise ResultsError(f"cannot write {path}: {exc.strerror}") from exc


def _outcome(path: Path) -> pa.Table | None:
    """Paths and errors of a part; None if it is damaged."""
    try:
        return pq.read_table(path, columns=["path", "error"])
    except (OSError, pa.ArrowException):
        return None


class _ParquetFile:
    def __init__(self, file: IO[bytes], model: Mapping[str, Any]) -> None:
        schema = SCHEMA.with_metadata({"kiln.model": json.dumps(model)})
        self._writer = pq.ParquetWriter(file, schema, compression="zstd")

    def __enter__(self) -> Callable[[pa.Table], None]:
        return lambda table: self._writer.write_table(table)

    def __exit__(self, *_: object) -> None:
        self._writer.close()


class _TextFile:
    """A text file of lines; CSV cells hold lists as JSON."""

    def __init__(self, file: IO[bytes], model: Mapping[str, Any]) -> None:
        self._text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)

    def __enter__(self) -> Callable[[pa.Table], None]:
        return self._write

    def __exit__(self, *_: object) -> None:
        self._text.flush()
        self._text.detach()

    def _write(self, table: pa.Table) -> None:
        raise NotImplementedError


class _JsonLines(_TextFile):
    def _write(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            self._text.write(json.dumps(row, ensure_ascii=False) + "\n")


class _Csv(_TextFile):
    def __init__(self, file: IO[bytes], model: Mapping[str, Any]) -> None:
        super().__init__(file, model)
        self._rows = csv.writer(self._text, lineterminator="\n")
        self._rows.writerow(SCHEMA.names)

    def _write(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            self._rows.writerow(
                json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
                for value in row.values()
            )


WRITERS: dict[str, Any] = {".parquet": _ParquetFile, ".csv": _Csv, ".jsonl": _JsonLines}
