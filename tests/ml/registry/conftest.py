"""Both places that a registry can be in."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ml.registry.object_store import BUCKET, object_store


@pytest.fixture(scope="session")
def loopback_s3() -> Iterator[None]:
    """Leads boto3 to an object store on this machine, for the rest of the process."""
    with object_store() as variables, pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("AWS_"):
                patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for a registry: a folder, then a bucket."""
    if request.param == "folder":
        return str(tmp_path / "registry")
    request.getfixturevalue("loopback_s3")
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"
