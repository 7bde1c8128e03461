"""The same sources are the same layers."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

PAIRS = list(
    zip(os.environ.get("LAYERS", "").split(), os.environ.get("AGAIN", "").split(), strict=True)
)

pytestmark = pytest.mark.skipif(
    not PAIRS, reason="built by Bazel: bazel test //tests/serve/image:test_reproducible"
)


def test_a_layer_that_is_made_again_has_the_same_bytes() -> None:
    assert len(PAIRS) == 3
    for made, again in PAIRS:
        one, other = (hashlib.sha256(Path(name).read_bytes()).digest() for name in (made, again))
        assert one == other, made
