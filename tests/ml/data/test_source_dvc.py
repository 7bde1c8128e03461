from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from ml.data import source_dvc
from ml.data.cifar10_files import Progress
from ml.data.source import SourceError
from ml.data.source_dvc import DvcSource, Remote, configured_remote
from tests.ml.data.loopback import serve
from tests.ml.data.tiny_dataset import tiny_dataset

DATA = tiny_dataset()


def write_config(root: Path, text: str, name: str = "config") -> Path:
    (root / ".dvc").mkdir(exist_ok=True)
    (root / ".dvc" / name).write_text(text)
    return root


def configure(root: Path, url: str, *options: str) -> DvcSource:
    lines = "".join(f"    {option}\n" for option in (f"url = {url}", *options))
    text = f"[core]\n    remote = kiln\n['remote \"kiln\"']\n{lines}"
    return DvcSource(write_config(root, text))


def install_program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    folder = tmp_path / "staging"
    folder.mkdir()
    return folder


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH besides the system's own."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return folder


def test_a_folder_is_read_by_hash(tmp_path: Path, staging: Path) -> None:
    remote = DATA.write_remote(tmp_path / "remote")
    DvcSource(tmp_path, override=str(remote)).deliver(DATA.pin, staging, Progress())
    DATA.pin.check(staging)


def test_a_configured_folder_starts_at_the_dvc_folder(tmp_path: Path, staging: Path) -> None:
    DATA.write_remote(tmp_path / "shared")
    configure(tmp_path, "../shared").deliver(DATA.pin, staging, Progress())
    DATA.pin.check(staging)


def test_a_folder_that_is_missing_is_named(tmp_path: Path, staging: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere"):
        DvcSource(tmp_path, str(tmp_path / "nowhere")).deliver(DATA.pin, staging, Progress())


def test_a_folder_without_the_file_names_it(tmp_path: Path, staging: Path) -> None:
    with pytest.raises(SourceError, match=r"files/md5/.*train\.bin"):
        DvcSource(tmp_path, str(tmp_path)).deliver(DATA.pin, staging, Progress())


def test_a_web_address_is_read_by_hash(tmp_path: Path, staging: Path) -> None:
    remote = DATA.write_remote(tmp_path / "remote")
    held = [path for path in remote.rglob("*") if path.is_file()]
    answers = {f"/store/{path.relative_to(remote)}": path.read_bytes() for path in held}
    with serve(answers) as address:
        DvcSource(tmp_path, f"{address}/store/").deliver(DATA.pin, staging, Progress())
    DATA.pin.check(staging)


@pytest.fixture(scope="module")
def object_store() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(object_store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The address of an object store whose bucket ``data`` holds the dataset below ``kiln/``."""
    variables = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=object_store)
    client.create_bucket(Bucket="data")
    remote = DATA.write_remote(tmp_path / "local")
    for path in remote.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "data", f"kiln/{path.relative_to(remote)}")
    return object_store


def test_an_object_store_is_read_with_boto3(tmp_path: Path, staging: Path, bucket: str) -> None:
    source = configure(tmp_path, "s3://data/kiln", f"endpointurl = {bucket}")
    source.deliver(DATA.pin, staging, Progress())
    DATA.pin.check(staging)


def test_an_object_that_is_missing_is_named(tmp_path: Path, staging: Path, bucket: str) -> None:
    source = configure(tmp_path, "s3://data/elsewhere", f"endpointurl = {bucket}")
    with pytest.raises(SourceError, match=r"s3://data/elsewhere/files/md5/.*NoSuchKey"):
        source.deliver(DATA.pin, staging, Progress())


def test_a_profile_that_is_missing_is_named(tmp_path: Path, staging: Path, bucket: str) -> None:
    source = configure(tmp_path, "s3://data/kiln", "profile = nobody")
    with pytest.raises(SourceError, match="nobody"):
        source.deliver(DATA.pin, staging, Progress())


def test_an_object_store_is_read_with_the_aws_command_where_boto3_is_missing(
    tmp_path: Path, staging: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_dvc, "_has_boto3", lambda: False)
    store = DATA.write_remote(tmp_path / "store")
    install_program(
        programs,
        "aws",
        f'echo "$@" > "{tmp_path}/asked"; cp "{store}/${{3#s3://data/kiln/}}" "$4"',
    )
    source = configure(tmp_path, "s3://data/kiln", "profile = team")
    source.deliver(DATA.pin, staging, Progress())
    DATA.pin.check(staging)
    assert "--profile team" in (tmp_path / "asked").read_text()


def test_an_object_store_without_any_reader_is_skipped_with_advice(
    tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_dvc, "_has_boto3", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match=r"skipped: .*boto3.*aws.*dvc.*PATH"):
        DvcSource(tmp_path, "s3://data/kiln").deliver(DATA.pin, staging, Progress())


def test_another_kind_of_remote_needs_dvc(
    tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match=r"skipped: .*gs://data .*dvc .*PATH"):
        DvcSource(tmp_path, "gs://data").deliver(DATA.pin, staging, Progress())


@pytest.fixture
def dvc(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real DVC as a command on PATH, away from the user's own settings."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    install_program(programs, "dvc", f'exec "{sys.executable}" -m dvc "$@"')
    return programs / "dvc"


DVC_SESSION = """
from dvc.repo import Repo
with Repo() as repo:
    repo.commit("data.dvc", force=True)
    assert repo.status() == {}, repo.status()
    assert repo.push() == 2
"""


def test_what_dvc_itself_pushed_is_read_and_dvc_agrees_with_the_pin(
    tmp_path: Path, staging: Path, dvc: Path
) -> None:
    repository = DATA.write_files(tmp_path / "repository")
    pin = DATA.write_pin(repository / "data.dvc").read_bytes()
    source = configure(repository, "../../pushed")
    write_config(repository, "[core]\n    no_scm = true\n", "config.local")

    session = [sys.executable, "-c", DVC_SESSION]
    done = subprocess.run(session, cwd=repository, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert (repository / "data.dvc").read_bytes() == pin
    source.deliver(DATA.pin, staging, Progress())
    DATA.pin.check(staging)


def test_the_dvc_command_pulls_what_nothing_else_can_read(
    tmp_path: Path, staging: Path, dvc: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_dvc, "_has_boto3", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: str(dvc) if name == "dvc" else None)
    source = configure(tmp_path, "s3://data/kiln", f"endpointurl = {bucket}")
    source.deliver(DATA.pin, staging, Progress())
    DATA.pin.check(staging)


def test_a_local_setting_goes_over_the_shared_one(tmp_path: Path) -> None:
    write_config(tmp_path, "[core]\nremote = a\n['remote \"a\"']\nurl = s3://shared\nprofile = p\n")
    write_config(tmp_path, "['remote \"a\"']\n    url = s3://mine\n", "config.local")
    assert configured_remote(tmp_path) == Remote("s3://mine", {"profile": "p"})


def test_an_override_needs_no_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path / "typed"))
    assert configured_remote(tmp_path, "s3://here") == Remote("s3://here")
    assert configured_remote(tmp_path, "there") == Remote(str(tmp_path / "typed" / "there"))


@pytest.mark.parametrize("config", ["", "[core]\nremote = b\n", "[core]\nanalytics = false\n"])
def test_no_remote_is_told_with_the_cure(tmp_path: Path, staging: Path, config: str) -> None:
    source = DvcSource(write_config(tmp_path, config))
    with pytest.raises(SourceError, match="KILN_DVC_REMOTE"):
        source.deliver(DATA.pin, staging, Progress())


def test_a_configuration_that_is_broken_is_named(tmp_path: Path, staging: Path) -> None:
    source = DvcSource(write_config(tmp_path, "remote = a\n"))
    with pytest.raises(SourceError, match=r"\.dvc/config "):
        source.deliver(DATA.pin, staging, Progress())


def test_boto3_is_found_where_it_is_installed() -> None:
    assert importlib.import_module("boto3")
    assert source_dvc._has_boto3()
