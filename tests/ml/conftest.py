"""One finished run for all tests that look at one."""

from collections.abc import Iterator

import pytest
import torch

from tests.helpers.exporter import remember_operators
from tests.ml.data.small_dataset import write_dataset
from tests.ml.workspace import SMALL, Workspace

remember_operators()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with one finished run. A test changes a copy."""
    path = tmp_path_factory.mktemp("finished")
    workspace = Workspace(path, write_dataset(path / "dataset", train=300, test=100))
    done = workspace.run(*SMALL)
    assert done.returncode == 0, done.stderr
    return workspace


@pytest.fixture(autouse=True)
def _denormals() -> Iterator[None]:
    """Training in this process flushes them, for good; Hypothesis wants floats as they are."""
    yield
    torch.set_flush_denormal(False)
