"""The life of all roots, once for all tests."""

from __future__ import annotations

import pytest

from tests.infra.terraform.aws import require_terraform, running_aws
from tests.infra.terraform.history import History, live_through


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    require_terraform()
    with running_aws(tmp_path_factory.mktemp("aws")) as aws:  # a process has room for one cloud
        return live_through(aws)
