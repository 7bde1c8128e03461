"""Lambda's rules, and ours, on the image that was built."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from common.oci import read_image
from infra.twin.image.container import Root, running
from tests.serve.image import built
from tools.image.lambda_rules import SizeLimits, problems

pytestmark = built.needs_image
root = built.root

MB = 1_000_000
# Compressed. A change of the code sends the application again, and nothing else.
LIMITS = SizeLimits(
    image=110 * MB,
    layers={
        "standard_library": 6 * MB,
        "packages": 80 * MB,
        "model": 20 * MB,
        "application": 1 * MB,
    },
)
UNWANTED = ["torch", "torchvision", "lightning", "pytorch_lightning", "wandb", "dvc", "nvidia"]
UNWANTED += ["triton", "hydra", "optuna", "pytest", "moto", "pip", "setuptools", "ml"]


def test_lambda_would_run_it() -> None:
    assert problems(built.LAYOUT, LIMITS, UNWANTED) == []


def test_it_may_be_snapshot() -> None:
    labels = read_image(built.LAYOUT).config["config"]["Labels"]
    assert labels["com.amazonaws.lambda.feature.snapstart"] == "Allow"


def test_entry_and_handler_can_be_imported(root: Root) -> None:
    program = """
import sys
sys.path.insert(0, "/var/task")
import serve.image.boot as boot
module, _, name = boot.HANDLER.rpartition(".")
print(callable(getattr(__import__(module, fromlist=[name]), name)))
import awslambdaric.__main__, serve.server.server, serve.aws_lambda.lifecycle
"""
    python = root.but(entrypoint=("/usr/bin/python3", "-I", "-B", "-c", program))
    with running(python, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as container:
        output, _ = container.process.communicate(timeout=60)
    assert (container.process.returncode, output.splitlines()[-1]) == (0, b"True"), output


def test_its_bill_of_materials_is_complete_and_valid() -> None:
    text = Path(os.environ["SBOM"]).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    parts = {part["name"] for part in json.loads(text)["components"]}
    assert {"onnxruntime", "numpy", "starlette", "libc6", "python3.11-minimal", "libssl3"} <= parts


def test_the_application_changes_apart_from_everything_else() -> None:
    """The same code and another one share all layers but the last."""
    one, other = (
        [layer["digest"] for layer in read_image(Path(os.environ[name])).manifest["layers"]]
        for name in ("IMAGE", "EDITED")
    )
    assert one[:-1] == other[:-1]
    assert one[-1] != other[-1]
