"""ml/drift/observed.py, and its window against the contract's own way of counting."""

from pathlib import Path

from common.model.drift import Counts
from ml.drift.observed import counted, listed, observe
from tests.ml.drift.tiny_artifact import scenes, write_tiny_artifact


def test_a_window_of_arrays_counts_as_one_filled_value_by_value(tmp_path: Path) -> None:
    images = scenes(450)
    artifact = write_tiny_artifact(tmp_path / "model.onnx", images[:300])
    seen = observe(artifact, images, "scenes")
    reference = artifact.metadata.drift_reference
    one_by_one = Counts.empty(reference)
    for index in range(len(images)):
        values = {name: [float(v[index])] for name, v in seen.signals.items()}
        one_by_one.add(reference, [int(seen.predictions[index])], values)
    assert counted(reference, seen.predictions, seen.signals) == one_by_one


def test_progress_hears_of_every_image(tmp_path: Path) -> None:
    images, heard = scenes(450), list[int]()
    observe(write_tiny_artifact(tmp_path / "model.onnx", images), images, "", heard.append)
    assert sum(heard) == 450


def test_long_lists_are_cut_with_their_rest_counted() -> None:
    assert listed(["a", "b"], most=2) == ["a", "b"]
    assert listed("abcde", most=2) == ["a", "b", "… and 3 more"]
