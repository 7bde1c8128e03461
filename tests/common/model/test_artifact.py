"""common/model/artifact.py: the metadata schema, written and read back; of each key, what a reader
accepts and what is just beyond it."""

import base64
import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.model.artifact import (
    FIELDS,
    ArtifactError,
    ArtifactMetadata,
    ParityVector,
    read_artifact,
    shortened,
    to_json,
)
from common.model.model_file import read_model_file
from common.model.signals import SIGNALS
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


SCORES = {"images": 1, "accuracy": 1, "macro_f1": 0, "loss": 99.5, "calibration_error": 0.5}
SIGNAL = {"name": SIGNALS[0], "mean": -2.5, "std": 0, "edges": [-1, 0.5], "shares": [0, 0.25, 0.75]}
PARITY = {"images": "AAEC", "probabilities": [[0.25, 0.75]], "tolerance": 1}
HEX = "0123456789abcdef"


def drift(images: Any = 1, class_priors: Any = (1,), **changes: Any) -> str:
    """A drift reference whose first signal is changed."""
    signals = [SIGNAL | changes, *(SIGNAL | {"name": name} for name in SIGNALS[1:])]
    return json.dumps({"images": images, "class_priors": class_priors, "signals": signals})


def is_taken(key: str, text: str) -> bool:
    """As a reader decides, who takes any ordinary exception for a no."""
    try:
        FIELDS[key].decode(text)
    except (ValueError, TypeError, KeyError):
        return False
    return True


@pytest.mark.parametrize(
    ("key", "taken", "refused"),
    [
        ("name", ["a", "0", "a-b_c.2"], ["A", "-a", "a b", "a\n", "ä"]),
        ("version", [4 * HEX], [4 * HEX + "0", 4 * HEX[:-1], (4 * HEX).upper()]),
        ("git_revision", ["unknown", "a" * 40, "a" * 40 + "-dirty"], ["a" * 39, "unknown-dirty"]),
        (
            "config_digest",
            [2 * HEX, 4 * HEX, "md5:" + 2 * HEX + ".dir", "sha256:" + 4 * HEX],
            ["a" * 31, "a" * 65, "sha1:" + 4 * HEX, 2 * HEX + "_dir", "sha256:"],
        ),
        ("quantisation", ["none", "int8"], ["int4", "none|int8", "None"]),
        ("device", ["c"], ["", "a\nb"]),
        ("precision", ["32"], [""]),
        ("classes", ['["a","b"]'], ['["a"]', '["a","a"]', '["a",""]', '["a",1]', '"ab"', "[]"]),
        ("opset", ["1", "20", str(2**31 - 1)], ["0", "-1", str(2**31), "1.0", "true", '"1"']),
        ("input_size", ["[1,1]", "[32,64]"], ["[1]", "[1,1,1]", "[0,1]", "[1,0]", "[1,1.5]"]),
        ("mean", ["[0,0.5,1]"], ["[0,0]", "[0,0,0,0]", "[0,0,1.001]", "[-1e-3,0,0]", "[0,0,true]"]),
        ("std", ["[0.001,0.5,1]"], ["[1,1]", "[9e-4,1,1]", "[1,1,1.1]", '[1,1,"1"]', "[1,1,NaN]"]),
    ],
)  # fmt: skip
def test_a_value_is_taken_up_to_its_limits(key: str, taken: list[str], refused: list[str]) -> None:
    assert [text for text in taken if not is_taken(key, text)] == []
    assert [text for text in refused if is_taken(key, text)] == []


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "calibration_error"])
def test_a_score_is_a_share(name: str) -> None:
    for value in (0, 0.5, 1):
        assert is_taken("test_metrics", json.dumps(SCORES | {name: value}))
    for wrong in (-0.001, 1.001, True, None):
        assert not is_taken("test_metrics", json.dumps(SCORES | {name: wrong}))


def test_a_loss_is_not_negative_and_somebody_was_asked() -> None:
    assert is_taken("test_metrics", json.dumps(SCORES | {"loss": 0}))
    for change in ({"loss": -0.001}, {"loss": float("inf")}, {"images": 0}, {"images": 1.5}):
        assert not is_taken("test_metrics", json.dumps(SCORES | change))


def test_shares_sum_to_one_but_for_rounding() -> None:
    for shares in ([1], [0, 1], [0.5, 0.4992], [0.5, 0.5008]):
        assert is_taken("drift_reference", drift(class_priors=shares))
    for shares in ([0.5, 0.498], [0.5, 0.502], [0.75, 0.75, -0.5], [1.5, -0.5], [], [0, 0], [1, 1]):
        assert not is_taken("drift_reference", drift(class_priors=shares))


@pytest.mark.parametrize(
    "wrong",
    [
        {"images": 0},
        {"edges": [0.5, 0.5]},
        {"edges": [0.5, -1]},
        {"edges": [0.5]},
        {"edges": [-1, 0.5, 0.7]},
        {"edges": [], "shares": [1]},
        {"edges": [-1, float("inf")]},
        {"shares": [0.5, 0.25, 0.2]},
        {"std": -0.001},
        {"mean": float("nan")},
        {"mean": "0"},
        {"name": "loudness"},
        {"name": SIGNALS[1]},
    ],
    ids=str,
)
def test_a_signal_can_be_counted_in(wrong: dict[str, Any]) -> None:
    assert is_taken("drift_reference", drift())
    assert is_taken("drift_reference", drift(edges=[0.5], shares=HALVES))
    assert not is_taken("drift_reference", drift(**wrong))


def test_every_signal_is_there_once_and_in_order() -> None:
    whole = json.loads(drift())
    signals = whole["signals"]
    for some in (signals[:-1], signals[::-1], [*signals, signals[0]], []):
        assert not is_taken("drift_reference", json.dumps(whole | {"signals": some}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"images": "AAE"},
        {"images": "AA EC"},
        {"tolerance": -0.001},
        {"tolerance": 1.001},
        {"probabilities": []},
        {"probabilities": [[0.5, 0.4]]},
        {"probabilities": [0.25, 0.75]},
    ],
    ids=str,
)
def test_a_parity_vector_can_be_compared_with(wrong: dict[str, Any]) -> None:
    for tolerance in (0, 1e-4, 1):
        assert is_taken("parity", json.dumps(PARITY | {"tolerance": tolerance}))
    assert not is_taken("parity", json.dumps(PARITY | wrong))


def test_numbers_are_read_as_what_they_stand_for() -> None:
    signal = FIELDS["drift_reference"].decode(drift()).signals[0]
    assert (signal.mean, signal.std) == (-2.5, 0)
    assert (signal.edges, signal.shares) == ((-1, 0.5), (0, 0.25, 0.75))
    assert FIELDS["parity"].decode(json.dumps(PARITY)).images == bytes([0, 1, 2])
    assert FIELDS["input_size"].decode("[3,4]") == (3, 4)
    means = FIELDS["mean"].decode("[0,0.5,1]")
    assert means == (0, 0.5, 1)
    assert all(type(mean) is float for mean in means)


def test_images_are_written_as_text() -> None:
    parity = sample_metadata().parity
    written = json.loads(FIELDS["parity"].encode(parity))
    assert base64.b64decode(written["images"]) == parity.images
    assert FIELDS["parity"].decode(json.dumps(written)) == parity


def test_equal_values_are_equal_text() -> None:
    assert to_json({"b": [1, 2], "a": 0.5}) == '{"a":0.5,"b":[1,2]}'
    assert to_json({"b": 1, "a": 2}) == to_json({"a": 2, "b": 1})


def test_what_no_json_can_hold_is_named() -> None:
    with pytest.raises(ArtifactError, match=r"^'\[inf\]' holds a number that is not finite$"):
        to_json([float("inf")])


def test_only_long_values_are_cut_in_messages() -> None:
    assert shortened("a'b") == '"a\'b"'
    assert shortened("x" * 60) == repr("x" * 60)
    assert shortened("x" * 61) == repr("x" * 57 + "...")
