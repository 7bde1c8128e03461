"""Both places that a registry can be in."""

import os
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from botocore.loaders import JSONFileLoader

from tests.ml.registry.object_store import BUCKET, object_store


@pytest.fixture(scope="session")
def where_s3_is() -> Iterator[dict[str, str]]:
    """An object store on this machine, by the variables that boto3 finds it by."""
    with object_store() as variables, pytest.MonkeyPatch.context() as patch:
        # Descriptions of services are read once, and not by each client and each forked process.
        patch.setattr(JSONFileLoader, "load_file", cache(JSONFileLoader.load_file))
        yield variables


@pytest.fixture
def loopback_s3(where_s3_is: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Leads boto3 to the object store."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in where_s3_is.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for a registry: a folder, then a bucket."""
    if request.param == "folder":
        return str(tmp_path / "registry")
    request.getfixturevalue("loopback_s3")
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"
