"""The image that Bazel built, unpacked once for the tests of a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from common.programs import require_program
from infra.twin.image.container import Root, unpack

NEEDS_BAZEL = "IMAGE" not in os.environ
LAYOUT = Path(os.environ.get("IMAGE", "")).absolute()

# For `pytestmark`: a test by hand says which layout it wants, IMAGE=bazel-bin/serve/image/image.
needs_image = pytest.mark.skipif(NEEDS_BAZEL, reason="set IMAGE to a layout, or run it by Bazel")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """The root file system of the image."""
    require_program("bwrap")
    return unpack(LAYOUT, tmp_path_factory.mktemp("image") / "root")
