"""The two stores of common/ keep one promise: whole, and once."""

import os
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from common.aws import S3Store
from common.objects import FolderStore, StoreError
from common.stores import open_store
from tests.ml.registry.object_store import BUCKET


def bucket(prefix: str) -> S3Store:
    store = open_store(f"s3://{BUCKET}/{prefix}")
    assert isinstance(store, S3Store)
    return store


def test_an_object_is_created_once(url: str) -> None:
    store = open_store(url)
    assert store.create("a/b.json", b"first")
    assert not store.create("a/b.json", b"second")
    assert store.read("a/b.json") == b"first"


def test_creating_the_same_bytes_again_is_no_failure(url: str) -> None:
    store = open_store(url)
    assert store.create("a", b"same")
    assert store.create("a", b"same")


def test_what_is_missing_is_a_key_error(url: str) -> None:
    store = open_store(url)
    with pytest.raises(KeyError, match="a/b"):
        store.read("a/b")
    assert store.entries("") == []
    store.delete("a/b")


def test_entries_are_listed_in_order_by_prefix(url: str) -> None:
    store = open_store(url)
    for key in ("log/0002", "log/0010", "log/0001", "other/1", "logs"):
        store.create(key, key.encode() * 2)
    assert [s.key for s in store.entries("log/")] == ["log/0001", "log/0002", "log/0010"]
    assert [s.key for s in store.entries("log/00", after="log/0001")] == ["log/0002", "log/0010"]
    assert [s.key for s in store.entries("log/001")] == ["log/0010"]
    assert [s.size for s in store.entries("other/")] == [14]
    store.delete("log/0010")
    assert [s.key for s in store.entries("log")] == ["log/0001", "log/0002", "logs"]
    assert store.unfinished() == []


def test_its_url_opens_it_again(url: str) -> None:
    open_store(url).create("a", b"1")
    assert open_store(open_store(url).url).read("a") == b"1"


def test_a_listing_longer_than_a_page_is_whole(
    loopback_s3: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = bucket("pages")
    for number in range(5):
        store.create(f"{number}", b"")
    paginator = store.client.get_paginator("list_objects_v2")
    monkeypatch.setattr(store.client, "get_paginator", lambda _: _Small(paginator))
    assert len(store.entries("")) == 5


class _Small:
    def __init__(self, paginator: Any) -> None:
        self._paginator = paginator

    def paginate(self, **options: Any) -> Any:
        return self._paginator.paginate(**options, PaginationConfig={"PageSize": 2})


def test_a_request_repeated_after_a_lost_answer_is_no_failure(
    loopback_s3: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = bucket("lost")
    put = store.client.put_object

    def lose_the_first_answer(**options: Any) -> Any:
        put(**options)
        return put(**options)

    monkeypatch.setattr(store.client, "put_object", lose_the_first_answer)
    assert store.create("a", b"mine")
    assert not store.create("a", b"another's")


def test_a_key_that_another_writer_is_at_is_asked_for_again(
    loopback_s3: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = bucket("busy")
    put, answers = store.client.put_object, iter([409, 409, 200])

    def busy_twice(**options: Any) -> Any:
        if next(answers) == 200:
            return put(**options)
        raise ClientError({"Error": {"Code": "ConditionalRequestConflict"}}, "PutObject")

    monkeypatch.setattr(store.client, "put_object", busy_twice)
    assert store.create("a", b"1")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://", "names no bucket"),
        ("gs://bucket/prefix", "cannot be used: expected s3://"),
        ("file://host/path", "cannot be used"),
    ],
)
def test_another_kind_of_url_is_refused(url: str, reason: str) -> None:
    with pytest.raises(StoreError, match=reason):
        open_store(url)


def test_a_bucket_that_does_not_exist_is_named(loopback_s3: None) -> None:
    with pytest.raises(StoreError, match=r"s3://nowhere/x: .*bucket"):
        open_store("s3://nowhere/x").entries("")
    with pytest.raises(StoreError, match="NoSuchBucket"):
        open_store("s3://nowhere/x").create("a", b"")


def test_a_store_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with pytest.raises(StoreError, match=r"127.0.0.1:9"):
        open_store("s3://b/p").read("a")


def test_missing_credentials_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match="AWS_PROFILE"):
        open_store("s3://b/p").read("a")


def test_a_file_in_the_folders_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = FolderStore(tmp_path / "file")
    with pytest.raises(StoreError, match=r"file.* Not a directory"):
        store.read("a")
    with pytest.raises(StoreError, match="cannot be used"):
        store.create("a", b"")


def test_a_file_system_without_links_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted", str(source), None, str(target))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StoreError, match="needs a file system with hard links"):
        FolderStore(tmp_path).create("a", b"")
    assert FolderStore(tmp_path).unfinished() == []


def test_a_relative_path_starts_where_the_command_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    assert open_store("here").url == str(tmp_path / "here")
    assert open_store(f"file://{tmp_path}/there").url == str(tmp_path / "there")
