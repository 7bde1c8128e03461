"""What //serve:api carries: the request path, and nothing of training."""

import importlib.metadata
import os
import re
from pathlib import Path

import pytest

RUNFILES = Path(os.path.abspath(__file__)).parents[3]  # links stay: this is the test's own tree
NEEDED = {"onnxruntime", "starlette", "pillow", "msgspec", "uvicorn"}
HEAVY = {
    "torch",
    "torchvision",
    "lightning",
    "pytorch_lightning",
    "wandb",
    "dvc",
    "onnx",
    "hydra_core",
    "boto3",  # capture signs its requests to S3 itself
    "botocore",
}

pytestmark = pytest.mark.skipif(
    "RUNFILES_DIR" not in os.environ and "TEST_SRCDIR" not in os.environ,
    reason="looks at what Bazel built: bazel test //tests/serve:test_closure",
)


def packages() -> set[str]:
    """Names of all distributions that the program can import, as the lock spells them."""
    return {
        re.sub(r"[-_.]+", "_", found.metadata["Name"]).lower()
        for found in importlib.metadata.distributions()
    }


def test_the_server_carries_what_answers_requests() -> None:
    assert packages() >= NEEDED
    for name in ("model.onnx", "model.fp32.onnx"):  # what --precision chooses from
        assert (RUNFILES / "_main/serve/built_in" / name).exists()


def test_the_server_carries_nothing_of_training() -> None:
    assert not packages() & HEAVY
    assert not list((RUNFILES / "_main").glob("ml/**/*.py"))
