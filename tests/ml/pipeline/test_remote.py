"""The remote on S3, against a server of that interface on this machine: what DVC pushed comes back,
and what is wrong is said before DVC begins."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import boto3
import pytest
from moto.server import ThreadedMotoServer

from ml.pipeline.runner import RemoteError, check_remote
from tests.ml.data.small_dataset import write_dataset
from tests.ml.pipeline.project import make_project

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """Options of a remote whose bucket ``data`` exists and is empty."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    settings = {
        **KEYS,
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    urlopen(Request(f"{server}/moto-api/reset", method="POST"))
    boto3.client("s3", endpoint_url=server, region_name="us-east-1").create_bucket(Bucket="data")
    return {"endpointurl": server, "region": "us-east-1"}


def test_a_remote_that_answers_is_accepted(bucket: dict[str, str]) -> None:
    check_remote("s3://data/kiln", bucket)


def test_other_kinds_of_remote_are_left_to_dvc(tmp_path: Path) -> None:
    for url in (str(tmp_path / "gone"), "https://127.0.0.1:1/x", "gs://b/x"):
        check_remote(url, {})


def test_a_missing_bucket_is_named(bucket: dict[str, str]) -> None:
    with pytest.raises(RemoteError, match=r"s3://other/kiln: .*bucket other"):
        check_remote("s3://other/kiln", bucket)


def test_missing_credentials_are_told_with_the_cure(
    bucket: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)
    with pytest.raises(RemoteError, match="AWS_ACCESS"):
        check_remote("s3://data/kiln", bucket)


def test_a_profile_that_does_not_exist_is_named(bucket: dict[str, str]) -> None:
    with pytest.raises(RemoteError, match="nobody"):
        check_remote("s3://data/kiln", {**bucket, "profile": "nobody"})


def test_wrong_credentials_are_told_with_the_cure(bucket: dict[str, str]) -> None:
    wrong = {**bucket, "access_key_id": "a", "secret_access_key": "b"}
    _ask_for_credentials(bucket["endpointurl"], after_calls="0")
    try:
        with pytest.raises(RemoteError, match=r"\(InvalidAccessKeyId\)"):
            check_remote("s3://data/kiln", wrong)
    finally:
        _ask_for_credentials(bucket["endpointurl"], after_calls="inf")


def _ask_for_credentials(server: str, *, after_calls: str) -> None:
    headers = {"Content-Type": "text/plain"}
    urlopen(Request(f"{server}/moto-api/reset-auth", after_calls.encode(), headers))


def test_an_endpoint_out_of_reach_is_named() -> None:
    options = {"endpointurl": "http://127.0.0.1:1", "access_key_id": "a", "secret_access_key": "b"}
    with pytest.raises(RemoteError, match=r"s3://data/kiln .*127\.0\.0\.1:1"):
        check_remote("s3://data/kiln", options)


def test_what_was_pushed_comes_back_byte_for_byte(bucket: dict[str, str], tmp_path: Path) -> None:
    project = make_project(tmp_path, write_dataset(tmp_path / "data", train=300, test=100))
    project.environment = KEYS | {"AWS_EC2_METADATA_DISABLED": "true"}
    project.dvc("remote", "modify", "kiln", "url", "s3://data/team/kiln")
    project.dvc("remote", "modify", "kiln", "endpointurl", bucket["endpointurl"])
    assert project.dvc("repro", "train").returncode == 0
    pushed = project.dvc("push")
    assert pushed.returncode == 0, pushed.stderr

    wanted = [project.path / "ml/data/train.bin", project.path / "pipeline/run/network.pt"]
    before = [path.read_bytes() for path in wanted]
    shutil.rmtree(project.path / ".dvc" / "cache")
    for path in wanted:
        path.unlink()
    pulled = project.dvc("pull", "ml/data/cifar10.dvc", "train")
    assert pulled.returncode == 0, pulled.stderr
    assert [path.read_bytes() for path in wanted] == before


def test_a_remote_that_does_not_answer_stops_the_command_with_two(tmp_path: Path) -> None:
    project = make_project(tmp_path, write_dataset(tmp_path / "data", train=10, test=10))
    project.environment = KEYS | {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "KILN_DVC_REMOTE": "s3://data/kiln",
    }
    done = project.dvc("push")
    assert done.returncode == 2
    assert "s3://data/kiln " in done.stderr
    assert "Traceback" not in done.stderr
