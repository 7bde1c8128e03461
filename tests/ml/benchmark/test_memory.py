"""ml/benchmark/memory.py: peaks that grow neither with the size of images nor with the square of
the classes."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from ml.benchmark import memory


def test_a_table_and_json_tell_every_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = lambda work, edge, classes: memory.Row(work, edge, classes, 1.0, 2.0)  # noqa: E731
    monkeypatch.setattr(memory, "_in_own_process", made)
    output, figures = io.StringIO(), tmp_path / "memory.json"
    arguments = ["--edges", "8", "16", "--classes", "2", "3", "--json", str(figures)]
    assert memory.main(arguments, Console(file=output, width=100)) == 0
    rows = json.loads(figures.read_text())["rows"]
    told = [(row["work"], row["edge"], row["classes"]) for row in rows]
    assert ("whitening", 16, 2) in told
    assert ("plots and page", 8, 3) in told
    assert {work for work, _, _ in told} == set(memory.WORK)
    assert output.getvalue().count("2 MB") == len(rows)


@pytest.mark.parametrize(
    ("work", "edge", "classes", "most_mb"),
    [
        ("whitening", 224, 2, 600),  # it was 13,000
        ("validation", 224, 2, 600),
        ("drift reference", 224, 2, 300),
        ("interval of the F1", 8, 1000, 100),  # it was 8,000
    ],
)
def test_large_images_and_many_classes_stay_within_bounds(
    work: str, edge: int, classes: int, most_mb: float
) -> None:
    assert 0 <= memory.measure(work, edge, classes).peak_mb < most_mb
