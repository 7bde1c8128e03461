"""common/model/artifact.py: of each key, what a reader takes and what is just beyond it."""

import base64
import json
from typing import Any

import pytest

from common.model.artifact import FIELDS, shortened, to_json
from common.model.model_file import ArtifactError
from common.model.signals import SIGNALS
from tests.common.model.samples import HALVES, sample_metadata

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
