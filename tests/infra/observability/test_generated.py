"""What is checked in is what the catalogue gives."""

from pathlib import Path

import pytest

from infra.observability.catalogue import load
from infra.observability.generate import files

FILES = files(load())


@pytest.mark.parametrize("name", FILES)
def test_a_generated_file_is_up_to_date(name: str) -> None:
    found = Path(name).read_text(encoding="utf-8")
    assert found == FILES[name], "run: bazel run //infra/observability:generate"
