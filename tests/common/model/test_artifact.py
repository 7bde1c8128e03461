"""common/model/artifact.py: the metadata schema, written and read back."""

import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.model.artifact import ArtifactError, ArtifactMetadata, ParityVector, read_artifact
from common.model.model_file import read_model_file
from tests.common.model.samples import HALVES, model_bytes, sample_metadata

KEYS = sorted("kiln." + field.name for field in fields(ArtifactMetadata))
OPTIONAL = {"kiln.resize"}


def sealed(metadata: ArtifactMetadata) -> bytes:
    """A model file whose metadata carries its own version."""
    version = read_model_file(model_bytes({})).version
    return model_bytes(replace(metadata, version=version).to_metadata_props())


def test_metadata_round_trips_through_onnx_entries() -> None:
    metadata = sample_metadata()
    assert ArtifactMetadata.from_metadata_props(metadata.to_metadata_props()) == metadata


def test_entries_are_sorted_and_cover_every_field() -> None:
    props = sample_metadata().to_metadata_props()
    assert list(props) == sorted(props)
    assert set(props) == {*KEYS, "kiln.schema", "kiln.metadata_digest"} - OPTIONAL


def test_how_images_are_made_to_fit_is_written_where_it_is_not_the_default() -> None:
    padded = sample_metadata(resize="pad")
    props = padded.to_metadata_props()
    assert props["kiln.resize"] == "pad"
    assert ArtifactMetadata.from_metadata_props(props) == padded


def test_keys_of_other_tools_are_left_alone() -> None:
    props = sample_metadata().to_metadata_props() | {"author": "someone"}
    assert ArtifactMetadata.from_metadata_props(props) == sample_metadata()


@pytest.mark.parametrize("key", sorted({*KEYS} - OPTIONAL))
def test_a_missing_key_is_named_with_what_was_expected(key: str) -> None:
    props = sample_metadata().to_metadata_props()
    del props[key]
    with pytest.raises(ArtifactError, match=f"{key} is missing, expected .+"):
        ArtifactMetadata.from_metadata_props(props)


@pytest.mark.parametrize("key", sorted({*KEYS} - {"kiln.name", "kiln.device", "kiln.precision"}))
@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "NaN", "[1e999]", "9" * 400, "[" * 9000])
def test_a_wrong_value_is_named_with_what_was_expected(key: str, text: str) -> None:
    props = sample_metadata().to_metadata_props() | {key: text}
    with pytest.raises(ArtifactError, match=f"{key} is .+, expected .+"):
        ArtifactMetadata.from_metadata_props(props)


def test_what_was_checked_cannot_be_changed_afterwards() -> None:
    metadata = sample_metadata()
    with pytest.raises(FrozenInstanceError):
        metadata.classes = ("a", "b", "c")  # type: ignore[misc]


def test_every_wrong_key_is_reported_at_once() -> None:
    props = sample_metadata().to_metadata_props() | {"kiln.opset": "new", "kiln.std": "[0,0,0]"}
    del props["kiln.classes"]
    with pytest.raises(ArtifactError) as refusal:
        ArtifactMetadata.from_metadata_props(props)
    assert all(f"kiln.{key} is" in str(refusal.value) for key in ("opset", "std", "classes"))


def test_an_edited_metric_is_refused_as_changed_metadata() -> None:
    props = sample_metadata().to_metadata_props()
    props["kiln.test_metrics"] = props["kiln.test_metrics"].replace("0.94", "0.99")
    with pytest.raises(ArtifactError, match=r"kiln[.]metadata_digest is"):
        ArtifactMetadata.from_metadata_props(props)


def test_an_onnx_file_of_another_program_is_called_foreign() -> None:
    with pytest.raises(ArtifactError, match=r"kiln[.]"):
        read_artifact(model_bytes({"author": "someone"}))


def test_another_schema_is_refused_by_number() -> None:
    props = sample_metadata().to_metadata_props() | {"kiln.schema": "99"}
    with pytest.raises(ArtifactError, match=r"kiln[.]schema is '99', expected '2'"):
        ArtifactMetadata.from_metadata_props(props)


@pytest.mark.parametrize(
    ("changes", "numbers"),
    [
        ({"classes": ("a", "b", "c")}, "3"),
        ({"input_size": (4, 6)}, "60 .*72"),
        ({"parity": ParityVector(bytes(60), (HALVES, HALVES), 1e-4)}, "120"),
    ],
)
def test_values_that_contradict_each_other_are_refused(
    changes: dict[str, Any], numbers: str
) -> None:
    with pytest.raises(ArtifactError, match=numbers):
        sample_metadata(**changes)


@pytest.mark.parametrize(
    "changes", [{"name": "No Such Name"}, {"opset": 0}, {"git_revision": "main"}]
)
def test_metadata_that_no_reader_would_take_is_not_written(changes: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match=rf"kiln[.]{next(iter(changes))} is"):
        sample_metadata(**changes).to_metadata_props()


@pytest.mark.parametrize(
    "changes",
    [
        {"edges": (0.5, 0.5), "shares": (0.2, 0.3, 0.5)},  # no bin between them
        {"shares": (0.5, 0.25, 0.25)},  # more bins than the edges cut
        {"shares": (0.5, 0.4)},
        {"name": "loudness"},
    ],
)
def test_a_drift_reference_that_cannot_be_counted_in_is_not_written(
    changes: dict[str, Any],
) -> None:
    reference = sample_metadata().drift_reference
    first = replace(reference.signals[0], **changes)
    wrong = replace(reference, signals=(first, *reference.signals[1:]))
    with pytest.raises(ArtifactError, match=r"kiln[.]drift_reference is"):
        sample_metadata(drift_reference=wrong).to_metadata_props()


def test_a_number_that_is_not_finite_is_not_written() -> None:
    scores = replace(sample_metadata().test_metrics, loss=float("nan"))
    with pytest.raises(ArtifactError, match="loss"):
        sample_metadata(test_metrics=scores).to_metadata_props()


def test_a_sealed_artifact_is_read() -> None:
    assert read_artifact(sealed(sample_metadata())).classes == ("round", "flat")


def test_changed_weights_are_refused_as_a_changed_model() -> None:
    data = sealed(sample_metadata()).replace(b"weights", b"wEights")
    with pytest.raises(ArtifactError, match=r"kiln[.]version is"):
        read_artifact(data)


@given(st.data())
def test_no_byte_of_an_artifact_can_change_unnoticed(data: st.DataObject) -> None:
    artifact = bytearray(sealed(sample_metadata()))
    position = data.draw(st.integers(0, len(artifact) - 1))
    artifact[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ArtifactError):
        read_artifact(bytes(artifact))


@given(st.data())
def test_no_artifact_can_be_cut_short_unnoticed(data: st.DataObject) -> None:
    artifact = sealed(sample_metadata())
    with pytest.raises(ArtifactError):
        read_artifact(artifact[: data.draw(st.integers(0, len(artifact) - 1))])


def test_the_contract_needs_the_standard_library_alone() -> None:
    root = Path(__file__).parents[3]
    modules = "common.model.artifact, common.model.drift"
    code = f"import sys; sys.path.append(sys.argv[1]); import {modules}"
    subprocess.run([sys.executable, "-I", "-S", "-c", code, str(root)], check=True)
