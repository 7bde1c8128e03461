"""How a run becomes the reference model, or does not."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from ml.artifact import quantise
from ml.artifact.artifact import load_artifact
from ml.bundled import adopt
from tests.helpers.program import stand_in
from tests.ml.workspace import Workspace


@pytest.fixture(autouse=True)
def surroundings(finished: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILN_CIFAR10", str(finished.path / "dataset"))
    monkeypatch.setattr("sys.executable", stand_in())
    monkeypatch.setattr(quantise, "ACCURACY_TOLERANCE", 0.1)  # one image of 100 is a per cent
    monkeypatch.setattr(adopt, "ACCURACY_TOLERANCE", 0.1)


def _adopt(run: Path, output: Path, *more: str) -> tuple[int, str]:
    out = io.StringIO()
    code = adopt.main([str(run), "--output", str(output), *more], Console(file=out, width=150))
    return code, out.getvalue()


def test_a_run_that_passes_is_copied_with_its_card(finished: Workspace, tmp_path: Path) -> None:
    (run,) = finished.runs
    code, said = _adopt(run, tmp_path / "reference", "--min-accuracy", "0")
    assert code == 0, said
    folder = tmp_path / "reference"
    assert (folder / "model.onnx").read_bytes() == (run / "model.onnx").read_bytes()
    small = load_artifact(folder / "model.int8.onnx").metadata
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["provenance"]["int8"]["version"] == small.version
    assert small.version[:12] in (folder / "MODEL_CARD.md").read_text()
    assert "git add ml/bundled" in said


def test_all_that_is_wrong_is_said_at_once_and_nothing_changes(
    finished: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adopt, "MAX_BYTES", 1000)
    monkeypatch.setattr(adopt, "MAX_SMALL_BYTES", 1000)
    (run,) = finished.runs
    code, said = _adopt(run, tmp_path / "reference")
    assert code == adopt.REFUSED
    for complaint in ("accuracy", "model.onnx has", "model.int8.onnx has", "nothing was written"):
        assert complaint in said
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_run_is_bad_input(tmp_path: Path) -> None:
    code, said = _adopt(tmp_path / "gone", tmp_path / "reference")
    assert code == adopt.BAD_INPUT
    assert "there is no such file or folder" in said
