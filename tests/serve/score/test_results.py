"""Parts outlast a kill; the output appears whole, and the same whatever happened."""

from __future__ import annotations

import csv
import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serve.score import results
from serve.score.results import Parts, ResultsError
from serve.score.scorer import SCHEMA
from tests.serve.score.files import column, rows_of

FACTS = {"model": "abc", "top_k": 3}
MODEL = {"name": "tiny", "classes": ["cat", "dog"]}
PATHS = [f"{number}.png" for number in range(10)]


def table(start: int, end: int) -> pa.Table:
    """Rows of the paths from `start`; every fifth has an error."""
    rows: list[dict[str, Any]] = []
    for number in range(start, end):
        row: dict[str, Any] = {"path": PATHS[number]}
        if number % 5:
            row |= {"label": "a, b", "confidence": 0.1, "probabilities": [0.1, 0.9]}
        else:
            row |= {"error": "missing-file", "message": "there is\nno such file"}
        rows.append(row)
    return pa.Table.from_pylist(rows, SCHEMA)


def run(output: Path, *ranges: tuple[int, int], flushing: bool = False) -> Parts:
    """A run that ends after these ranges; the lock is given back."""
    with Parts(output) as parts:
        parts.made_from(FACTS)
        for start, end in ranges:
            parts.add(start, table(start, end))
            if flushing:
                parts.flush()
        parts.flush()
    return parts


def missing(output: Path, paths: Sequence[str] = PATHS, restart: bool = False) -> Any:
    """What another run finds that it has to do."""
    with Parts(output, restart=restart) as parts:
        return parts.missing(paths)


def test_what_is_done_is_not_missing_and_is_counted(tmp_path: Path) -> None:
    run(tmp_path / "out.parquet", (0, 3), (3, 4), (6, 8))
    with Parts(tmp_path / "out.parquet") as parts:
        parts.made_from(FACTS)
        assert parts.missing(PATHS) == [(4, 6), (8, 10)]
    assert (parts.rows, parts.errors) == (6, {"missing-file": 1})


def test_parts_of_other_paths_are_done_again(tmp_path: Path) -> None:
    parts = run(tmp_path / "out.parquet", (0, 3), (3, 6), (6, 10), flushing=True)
    assert missing(parts.output, [*PATHS[:4], "new.png", *PATHS[4:]]) == [(3, 11)]
    assert [path.name[:12] for path in parts.folder.glob("*-*")] == ["000000000000"]


def test_a_part_that_is_damaged_is_done_again(tmp_path: Path) -> None:
    parts = run(tmp_path / "out.parquet", (0, 5), (5, 10), flushing=True)
    (parts.folder / "000000000005-000000000010.parquet").write_bytes(b"PAR1 and no more")
    assert missing(tmp_path / "out.parquet") == [(5, 10)]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_the_output_is_the_same_however_the_work_was_cut(tmp_path: Path, suffix: str) -> None:
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    parts = run(whole, (0, 10))
    parts.merge(MODEL, lambda _: None)
    run(cut, (7, 10))
    run(cut, (0, 2))
    parts = run(cut, (2, 7))
    noted: list[int] = []
    parts.merge(MODEL, noted.append)
    assert cut.read_bytes() == whole.read_bytes()
    assert noted == [10]
    assert [path.name for path in tmp_path.iterdir()].count(f"cut.{suffix}.parts") == 0


def test_rows_are_merged_a_few_at_a_time_in_groups_that_no_part_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "_GROUP_BYTES", 4 * 528)  # of two classes
    noted: list[int] = []
    run(tmp_path / "o.parquet", (0, 1), (1, 7), (7, 10), flushing=True).merge(MODEL, noted.append)
    assert noted == [4, 8, 10]
    assert column(tmp_path / "o.parquet", "path") == PATHS


def test_every_format_holds_the_same_rows(tmp_path: Path) -> None:
    for suffix in ("parquet", "csv", "jsonl"):
        run(tmp_path / f"o.{suffix}", (0, 10)).merge(MODEL, lambda _: None)
    rows = rows_of(tmp_path / "o.parquet")
    lines = (tmp_path / "o.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows
    with (tmp_path / "o.csv").open(encoding="utf-8", newline="") as file:
        of_csv = list(csv.DictReader(file))
    assert [row["message"] or None for row in of_csv] == [row["message"] for row in rows]
    assert json.loads(of_csv[1]["probabilities"]) == rows[1]["probabilities"]
    metadata = pq.read_schema(tmp_path / "o.parquet").metadata
    assert json.loads(metadata[b"kiln.model"]) == MODEL


def test_other_options_or_files_are_refused_until_it_is_restarted(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    run(output, (0, 10))
    with Parts(output) as parts, pytest.raises(ResultsError, match=r"top_k 3 .*5.*--rest"):
        parts.made_from(FACTS | {"top_k": 5})
    with pytest.raises(ResultsError, match=r"other files.*--restart"):
        missing(output, ["elsewhere.png"])
    assert missing(output, restart=True) == [(0, 10)]
    with Parts(output) as parts:
        parts.made_from(FACTS | {"top_k": 5})


def test_two_runs_do_not_write_the_same_output(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    with Parts(output), pytest.raises(ResultsError, match=str(output)):
        Parts(output)
    assert missing(output) == [(0, 10)]


@pytest.mark.parametrize("name", ["file/out.parquet", "folder"])
def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ResultsError, match=name.partition("/")[0]):
        Parts(tmp_path / name)


def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run(tmp_path / "out.parquet", (0, 5))
    with Parts(tmp_path / "out.parquet") as parts, monkeypatch.context() as patch:
        patch.setattr(results, "write_whole", full)
        parts.add(5, table(5, 10))
        with pytest.raises(ResultsError, match=os.strerror(errno.ENOSPC)):
            parts.flush()
        patch.setattr(os, "fsync", full)
        with pytest.raises(ResultsError, match=os.strerror(errno.ENOSPC)):
            parts.merge(MODEL, lambda _: None)
    assert not (tmp_path / "out.parquet").exists()
    assert missing(tmp_path / "out.parquet") == [(5, 10)]
