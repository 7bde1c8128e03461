"""ml/runs/models.py: what a user's words mean."""

from pathlib import Path

import pytest

from common.files import user_path
from ml.artifact.artifact import ArtifactError
from ml.runs.models import BUNDLED, model_path


def test_a_model_is_a_file_a_run_folder_or_the_bundled_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/model.onnx").touch()
    assert model_path("run") == model_path("run/model.onnx") == tmp_path / "run/model.onnx"
    assert model_path(None) == BUNDLED
    for missing in ("other.onnx", "."):
        with pytest.raises(ArtifactError, match=r"model\.onnx"):
            model_path(missing)


def test_absolute_and_home_paths_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", "/somewhere")
    monkeypatch.setenv("HOME", "/home/someone")
    assert user_path("/data/a.onnx") == Path("/data/a.onnx")
    assert user_path("~/a.onnx") == Path("/home/someone/a.onnx")
