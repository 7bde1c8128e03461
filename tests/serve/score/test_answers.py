"""Each file is answered as /predict answers it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from common.model.artifact import ArtifactError
from serve.errors import PROBLEM
from serve.score.listing import StorageError
from serve.score.scorer import Model, Scorer
from serve.settings import Settings
from tests.serve.score.files import photos, s3_bucket
from tests.serve.server_process import running
from tests.serve.serving import MODEL, image_file, pixels

GOLDEN = Path("tests/serve/golden")
LIMIT = 64 * 1024


def model(folder: Path, top_k: int = 3) -> Model:
    settings = Settings(max_body_bytes=LIMIT, max_pixels=1_000_000)
    return Model(MODEL.read_bytes(), settings, top_k, str(folder))


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return Scorer(model(tmp_path_factory.mktemp("files")), workers=2)


def scored(scorer: Scorer, paths: list[Path], batch_size: int = 7) -> list[dict[str, Any]]:
    names = [str(path.absolute()) for path in paths]
    return [
        row
        for _, table in scorer.score(names, [(0, len(names))], batch_size)
        for row in table.to_pylist()
    ]


def odd_files(folder: Path) -> list[Path]:
    """Files that /predict refuses, of every kind."""
    contents = {
        "empty.png": b"",
        "text.jpg": b"no image",
        "cut.png": image_file(pixels(1, 64, 64))[:900],
        "photo.heic": b"\0\0\0\x18ftypheic\0\0\0\0heicmif1",
        "many_pixels.gif": b"GIF89a\xff\xff\xff\xff" + bytes(20),
        "long.bmp": image_file(pixels(1)) + bytes(LIMIT),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def test_the_rows_are_what_the_service_answers_digit_for_digit(
    scorer: Scorer, tmp_path: Path
) -> None:
    files = [*sorted(GOLDEN.glob("*.*")), *photos(tmp_path, 20), *odd_files(tmp_path)]
    with running(KILN_MAX_BODY_BYTES=str(LIMIT), KILN_MAX_PIXELS="1000000") as server:
        for path, row in zip(files, scored(scorer, files), strict=True):
            status, answer = predict(server.port, path.read_bytes())
            assert row["path"] == str(path.absolute())
            if status == 200:
                assert row["error"] is None
                found = {name: row[name] for name in ("label", "index", "top_k")}
                assert found == {name: answer[name] for name in found}
                assert row["confidence"] == answer["probability"]
                assert row["probabilities"] == list(answer["probabilities"].values())
                assert row["model_version"] == answer["model_version"]
            else:
                assert PROBLEM + row["error"] == answer["type"], path
                assert row["label"] is None
                assert row["probabilities"] is None
                if row["error"] != "body-too-large":  # where the file is meant, and its variable
                    assert row["message"] == answer["detail"]


def predict(port: int, body: bytes) -> tuple[int, Any]:
    headers = {"content-type": "application/octet-stream"}
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("POST", "/predict?probabilities=true", body, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def test_files_that_give_no_bytes_are_rows_with_their_errors(
    scorer: Scorer, tmp_path: Path
) -> None:
    (tmp_path / "folder.png").mkdir()
    paths = [tmp_path / "gone.png", tmp_path / "folder.png", Path("/dev/zero"), Path("/\0.png")]
    rows = scored(scorer, paths)
    kinds = ["missing-file", "unreadable-file", "unreadable-file", "unreadable-file"]
    assert [row["error"] for row in rows] == kinds
    assert all(row["message"] and row["sha256"] is None for row in rows)


def test_a_name_that_is_no_text_is_scored_and_shown(scorer: Scorer, tmp_path: Path) -> None:
    path = tmp_path / "caf\udce9.png"  # é in Latin-1
    path.write_bytes(image_file(pixels()))
    (row,) = scored(scorer, [path])
    assert row["path"].endswith("caf\\xe9.png")
    assert row["label"]


def test_neither_the_size_of_groups_nor_threads_change_an_answer(tmp_path: Path) -> None:
    files = [*photos(tmp_path, 40), tmp_path / "gone.png", *sorted(GOLDEN.glob("*.jpeg"))]
    one, many = Scorer(model(tmp_path), workers=1), Scorer(model(tmp_path), workers=4)
    expected = scored(one, files, batch_size=1)
    assert scored(many, files, batch_size=3) == expected
    assert scored(many, files, batch_size=64) == expected


def test_relative_paths_begin_at_the_folder_and_top_k_is_heeded(tmp_path: Path) -> None:
    photos(tmp_path / "in", 1)
    ((_, table),) = Scorer(model(tmp_path, top_k=5), 1).score(["in/0000.png"], [(0, 1)], 8)
    (row,) = table.to_pylist()
    assert row["path"] == "in/0000.png"
    assert len(row["top_k"]) == 5


def test_no_more_files_are_taken_than_a_few_groups_for_each_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    one = Scorer(model(tmp_path), workers=1)
    table = one.table

    def noted(paths: Sequence[str]) -> pa.Table:
        started.append(len(paths))
        return table(paths)

    monkeypatch.setattr(one, "table", noted)
    tables = one.score(["gone.png"] * 1000, [(0, 1000)], batch_size=1)
    next(tables)
    assert len(started) <= 9  # four for each of two threads, and the one that was taken
    tables.close()


def test_a_model_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        Scorer(Model(b"no model", Settings(), 3, str(tmp_path)), 1)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with s3_bucket(monkeypatch) as client:
        yield client


def test_objects_are_scored_as_files_are(scorer: Scorer, bucket: Any) -> None:
    data = image_file(pixels(3))
    bucket.put_object(Bucket="photos", Key="a.png", Body=data)
    bucket.put_object(Bucket="photos", Key="long.png", Body=bytes(LIMIT + 1))
    names = ["s3://photos/a.png", "s3://photos/gone.png", "s3://photos/long.png"]
    ((_, table),) = scorer.score(names, [(0, 3)], 8)
    rows = table.to_pylist()
    assert [row["error"] for row in rows] == [None, "missing-file", "body-too-large"]
    assert rows[0]["label"]
    with pytest.raises(StorageError, match="NoSuchBucket"):
        list(scorer.score(["s3://elsewhere/a.png"], [(0, 1)], 8))
