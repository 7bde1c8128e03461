"""A cloud for each test, with functions that are Python sources."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.twin.cloud.cloud import Cloud
from tests.infra.twin.cloud.functions import Functions


@pytest.fixture
def functions(tmp_path: Path) -> Functions:
    return Functions(tmp_path)


@pytest.fixture
def cloud(tmp_path: Path, functions: Functions) -> Iterator[Cloud]:
    with Cloud(tmp_path, functions.launch, seed=7, retry_after_s=(0.01,)) as cloud:
        yield cloud
