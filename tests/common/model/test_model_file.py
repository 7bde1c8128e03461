"""common/model/model_file.py: version and metadata of an ONNX file, without the onnx package."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.model.model_file import ArtifactError, read_model_file
from tests.common.model.samples import length_delimited, model_bytes, varint


def test_metadata_entries_are_read_and_do_not_change_the_version() -> None:
    bare, labelled = read_model_file(model_bytes({})), read_model_file(model_bytes({"a": "1"}))
    assert labelled.metadata_props == {"a": "1"}
    assert labelled.version == bare.version


def test_another_weight_is_another_version() -> None:
    one, other = model_bytes({}, graph=b"weights 1"), model_bytes({}, graph=b"weights 2")
    assert read_model_file(one).version != read_model_file(other).version


@given(st.dictionaries(st.text(), st.text(), max_size=5))
def test_any_metadata_round_trips(props: dict[str, str]) -> None:
    assert read_model_file(model_bytes(props)).metadata_props == props


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_read_or_refused_but_never_crash(data: bytes) -> None:
    with suppress(ArtifactError):
        assert len(read_model_file(data).version) == 64


@given(st.data())
def test_a_truncated_file_is_refused_or_lacks_metadata(data: st.DataObject) -> None:
    whole = model_bytes({"a": "1", "b": "2"})
    end = data.draw(st.integers(0, len(whole) - 1))
    try:
        file = read_model_file(whole[:end])
    except ArtifactError:
        return
    assert len(file.metadata_props) < 2


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", None),
        (b"\x89PNG\r\n\x1a\n", "byte 0"),
        (b"hello world", "byte 0"),
        (model_bytes({})[:-3], "3 bytes of field 7"),
        (model_bytes({})[:4], "field 7|number"),
        (varint(7 << 3 | 2) + b"\xff" * 11, "10 bytes"),
        (varint(7 << 3 | 1) + bytes(8), "wire type 1"),
        (model_bytes({"a": "1"}) + model_bytes({"a": "2"}), "key 'a'"),
        (varint(14 << 3) + varint(3), "byte 0"),
        (length_delimited(14, length_delimited(3, b"x")), "byte 0"),
        (length_delimited(14, length_delimited(1, b"\xff")), "byte 0"),
    ],
)
def test_what_is_not_an_onnx_model_is_refused_by_its_place(data: bytes, named: str | None) -> None:
    with pytest.raises(ArtifactError, match=named):
        read_model_file(data)
