"""Which files are scored, and in which order."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serve.score.listing import Listing, ListingError, StorageError, list_files
from tests.serve.score.files import s3_bucket


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    for name in ("photos/b.png", "photos/a.JPG", "photos/notes.txt", "photos/2024/c.heic"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def listed(*inputs: str, lines: str = "", **how: Any) -> Listing:
    return list_files(inputs, io.StringIO(lines), **how)


def test_a_folder_gives_the_images_below_it_by_name_and_counts_the_others(here: Path) -> None:
    (here / "photos/._b.png").touch()  # of macOS
    (here / "photos/.cache").mkdir()
    (here / "photos/.cache/thumbnail.png").touch()
    found = listed("photos/")
    assert found.paths == ["photos/a.JPG", "photos/b.png", "photos/2024/c.heic"]
    assert found.skipped == 2


def test_a_link_to_a_folder_is_followed_and_one_that_leads_back_is_not(here: Path) -> None:
    (here / "other").mkdir()
    (here / "other/d.gif").touch()
    (here / "photos/other").symlink_to(here / "other")
    (here / "photos/2024/back").symlink_to(here / "photos")
    assert listed("photos").paths[-1] == "photos/other/d.gif"
    assert len(listed("photos").paths) == 4


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("photos/*", ["photos/2024/c.heic", "photos/a.JPG", "photos/b.png"]),
        ("photos/**/*.heic", ["photos/2024/c.heic"]),
        ("photos/[ab].*", ["photos/a.JPG", "photos/b.png"]),
    ],
)
def test_a_pattern_gives_what_matches(pattern: str, paths: list[str]) -> None:
    assert listed(pattern).paths == paths


def test_a_file_whose_name_is_a_pattern_is_that_file(here: Path) -> None:
    (here / "photo[1].png").touch()
    assert listed("photo[1].png").paths == ["photo[1].png"]


def test_a_file_that_is_named_by_itself_is_tried_whatever_it_is_called(here: Path) -> None:
    (here / "broken").symlink_to("nowhere")
    found = listed("photos/notes.txt", "broken")
    assert (found.paths, found.skipped) == (["photos/notes.txt", "broken"], 0)


def test_several_inputs_keep_their_order_and_give_each_path_once(here: Path) -> None:
    found = listed("photos/b.png", "-", "photos", lines="x.bin\r\n\nphotos/a.JPG\n")
    assert found.paths == ["photos/b.png", "x.bin", "photos/a.JPG", "photos/2024/c.heic"]
    assert found.repeated == 2
    assert listed("photos", limit=2).paths == ["photos/a.JPG", "photos/b.png"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_a_table_gives_the_paths_of_a_column(here: Path, kind: str) -> None:
    path = here / f"list.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"path": ["a.png"], "file": ["é, b.png"]}), path)
    else:
        separator = "," if kind == "csv" else "\t"
        path.write_text(f'path{separator}file\na.png{separator}"é, b.png"\n', "utf-8-sig")
    assert listed(path.name).paths == ["a.png"]
    assert listed(path.name, column="file").paths == ["é, b.png"]
    with pytest.raises(ListingError, match=r"url, .*path, file"):
        listed(path.name, column="url")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", b"no Parquet"),
        ("a.csv", b"path,label\n,cat\n"),
        ("a.csv", b"path\n\xff\xfe\n"),
        ("a.csv", b""),
        ("a.parquet", pa.table({"path": [1]})),
    ],
)
def test_a_table_that_holds_no_paths_is_refused(here: Path, name: str, content: Any) -> None:
    if isinstance(content, bytes):
        (here / name).write_bytes(content)
    else:
        pq.write_table(content, here / name)
    with pytest.raises(ListingError, match=name):
        listed(name)


@pytest.mark.parametrize(
    "name", ["nowhere", "*.tif", "https://example.org/a.png", "s3://", "photos/notes", "-"]
)
def test_an_input_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ListingError, match=r"nowhere|tif|https|s3:|notes|no image"):
        listed(name)


def test_a_folder_without_images_says_how_many_files_it_has(here: Path) -> None:
    (here / "texts").mkdir()
    (here / "texts/a.txt").touch()
    with pytest.raises(ListingError, match=r"texts.* 1 file"):
        listed("texts")


def test_a_folder_that_cannot_be_read_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Any) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "scandir", refuse)  # root may read everything
    with pytest.raises(ListingError, match=f"photos .*{os.strerror(errno.EACCES)}"):
        listed("photos")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with s3_bucket(monkeypatch) as client:
        for key in ("in/a.png", "in/b.txt", "in/c/d.jpg", "inside.png", "in/"):
            client.put_object(Bucket="photos", Key=key, Body=b"")
        yield


@pytest.mark.usefixtures("bucket")
def test_a_bucket_gives_what_is_below_a_prefix_or_matches_or_is_named() -> None:
    below = ["s3://photos/in/a.png", "s3://photos/in/c/d.jpg"]
    assert listed("s3://photos/in").paths == below
    assert listed("s3://photos/in/").paths == below
    assert listed("s3://photos").paths == [*below, "s3://photos/inside.png"]
    assert listed("s3://photos/in*.png").paths == ["s3://photos/in/a.png", "s3://photos/inside.png"]
    assert listed("s3://photos/in/b.txt").paths == ["s3://photos/in/b.txt"]
    assert listed("s3://photos/in").skipped == 1


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_is_not_there_is_an_error_of_the_storage() -> None:
    with pytest.raises(StorageError, match=r"s3://elsewhere.*NoSuchBucket"):
        listed("s3://elsewhere/in")
