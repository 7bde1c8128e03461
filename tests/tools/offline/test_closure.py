"""What a package of the lock carries, seen from inside a sandbox."""

from __future__ import annotations

import importlib.util
import os

import pytest

pytestmark = pytest.mark.skipif(
    "TEST_SRCDIR" not in os.environ,
    reason="only under Bazel is there exactly what was declared",
)


def test_starlette_comes_with_what_it_requires() -> None:
    assert importlib.util.find_spec("starlette.applications")
    assert importlib.util.find_spec("anyio")


@pytest.mark.parametrize("heavy", ["torch", "lightning", "nvidia", "triton", "dvc", "wandb"])
def test_nothing_of_training_comes_with_starlette(heavy: str) -> None:
    assert importlib.util.find_spec(heavy) is None
