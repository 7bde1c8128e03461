"""One account on loopback for all tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.infra.terraform.aws import Aws, require_terraform, running_aws
from tests.infra.terraform.history import History, live_through


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    require_terraform()
    with running_aws(tmp_path_factory.mktemp("aws")) as account:
        yield account


@pytest.fixture(scope="session")
def history(aws: Aws) -> History:
    return live_through(aws)
