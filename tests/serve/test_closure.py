"""What //serve:api carries: the request path, and nothing of training."""

import os
from pathlib import Path

import pytest

RUNFILES = Path(os.path.abspath(__file__)).parents[3]  # links stay: this is the test's own tree
HEAVY = {"torch", "torchvision", "lightning", "pytorch_lightning", "wandb", "dvc", "onnx", "hydra"}

pytestmark = pytest.mark.skipif(
    "RUNFILES_DIR" not in os.environ and "TEST_SRCDIR" not in os.environ,
    reason="looks at what Bazel built: bazel test //tests/serve:test_closure",
)


def packages() -> set[str]:
    """Names of the top-level packages of all distributions in the runfiles."""
    return {
        entry.name
        for folder in RUNFILES.glob("*/site-packages")
        for entry in folder.iterdir()
        if entry.is_dir()
    } | {entry.name for folder in RUNFILES.glob("*/") for entry in folder.iterdir()}


def test_the_server_carries_what_answers_requests() -> None:
    assert {"onnxruntime", "starlette", "PIL", "msgspec", "uvicorn"} <= packages()
    assert (RUNFILES / "_main/serve/built_in/model.onnx").exists()


def test_the_server_carries_nothing_of_training() -> None:
    assert not packages() & HEAVY
    assert not list((RUNFILES / "_main").glob("ml/**/*.py"))
