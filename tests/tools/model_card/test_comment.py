"""The comment about a pull request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.model_card.comment import accuracy, change, layers, main, recalls, to_markdown

LAYERS = [
    {"digest": "sha256:a", "bytes": 15_400_000, "name": "base"},
    {"digest": "sha256:b", "bytes": 3_700_000, "name": "model"},
    {"digest": "sha256:c", "bytes": 270_000, "name": "application"},
]


def figures(**changes: Any) -> dict[str, Any]:
    """Of a build."""
    cats, dogs = [900, 100], [50, 950]
    return {
        "revision": "1" * 12,
        "test": {"classes": ["cat", "dog"], "confusion": [cats, dogs]},
        "model_version": "a" * 64,
        "onnx_bytes": 3_940_000,
        "int8_bytes": 1_040_000,
        "p50_ms": 2.0,
        "p99_ms": 2.5,
        "cold_start_ms": 230.0,
        "layers": LAYERS,
        **changes,
    }


def row(text: str, name: str) -> list[str]:
    """Cells of the table's row."""
    [line] = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_a_change_of_code_alone_says_that_the_model_is_the_same() -> None:
    code = [*LAYERS[:2], {"digest": "sha256:d", "bytes": 300_000, "name": "application"}]
    text = to_markdown(figures(), figures(revision="2" * 12, layers=code))
    assert "The model is the same" in text
    assert row(text, "accuracy") == ["92.50%", "92.50%", "same"]
    assert row(text, "image")[2] == "0.30 MB in 1 of 3 layers: application"
    assert row(text, "cat") == ["90.0%", "90.0%", "same"]


def test_a_worse_model_is_told_in_bold_with_its_interval() -> None:
    worse = {"classes": ["cat", "dog"], "confusion": [[700, 300], [50, 950]]}
    text = to_markdown(figures(), figures(test=worse, model_version="b" * 64))
    assert "Another model: `aaaaaaaaaaaa` → `bbbbbbbbbbbb`" in text
    assert row(text, "accuracy")[2].startswith("**-10.00 points** (-")
    assert row(text, "cat")[2].startswith("**-20.00 points**")
    assert "1 of 2 changed" in text


def test_a_difference_within_chance_is_not_bold() -> None:
    slightly = {"classes": ["cat", "dog"], "confusion": [[901, 99], [50, 950]]}
    text = to_markdown(figures(), figures(test=slightly))
    assert row(text, "accuracy")[2].startswith("+0.05 points (-")


def test_times_sizes_and_cost_are_relative() -> None:
    text = to_markdown(figures(), figures(p50_ms=3.0, onnx_bytes=1_970_000, int8_bytes=None))
    assert row(text, "p50, one caller") == ["2.00 ms", "3.00 ms", "+50.0%"]
    assert row(text, "model.onnx") == ["3.94 MB", "1.97 MB", "-50.0%"]
    assert row(text, "model.int8.onnx") == ["1.04 MB", "—", "—"]
    base, head, _ = row(text, "1,000 requests")
    assert 0 < float(base.strip("$")) < float(head.strip("$"))


def test_a_class_that_is_new_is_not_compared() -> None:
    new = {"classes": ["dog", "frog"], "confusion": [[900, 100], [50, 950]]}
    assert recalls(figures()["test"], new).keys() == {"dog"}


shares = st.tuples(st.integers(0, 500), st.integers(1, 500)).map(lambda p: (min(p), max(p)))


@given(shares, shares)
def test_the_interval_holds_the_difference_and_turns_round_with_it(
    base: tuple[int, int], head: tuple[int, int]
) -> None:
    there, back = change(base, head), change(head, base)
    assert there.low - 1e-9 <= there.head - there.base <= there.high + 1e-9
    assert there.low == pytest.approx(-back.high, abs=1e-12)
    assert there.high == pytest.approx(-back.low, abs=1e-12)


def test_intervals_are_those_of_the_literature() -> None:
    # Newcombe 1998, table II, method 10: 56/70 against 48/80.
    found = change((48, 80), (56, 70))
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_accuracy_reads_the_diagonal() -> None:
    found = accuracy(figures()["test"], figures()["test"])
    assert (found.base, found.is_real) == (0.925, False)


def test_layers_are_known_by_their_digest() -> None:
    found = layers(LAYERS[:1], LAYERS)
    assert (found.changed, found.count) == (["model", "application"], 3)
    assert (found.total_bytes, found.new_bytes) == (19_370_000, 3_970_000)


def test_the_command_reads_two_files_and_writes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    for name in ("base", "head"):
        (tmp_path / f"{name}.json").write_text(json.dumps(figures()))
    assert main(["--base=base.json", "--head=head.json", "--output=comment.md"]) == 0
    assert (tmp_path / "comment.md").read_text() == capsys.readouterr().out


def test_figures_that_lack_a_part_are_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    (tmp_path / "a.json").write_text('{"revision": "1"}')
    assert main(["--base=a.json", "--head=a.json"]) == 2
    assert "model_version" in capsys.readouterr().err
