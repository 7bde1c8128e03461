"""ml/benchmark/training.py: every preset on both kinds of machine, in a table and as JSON."""

import io
import json
from pathlib import Path

from rich.console import Console

from ml.benchmark.training import main


def test_each_preset_is_measured_on_both_kinds_of_machine(tmp_path: Path) -> None:
    output = io.StringIO()
    figures = tmp_path / "speed.json"
    code = main(["--presets", "tiny", "--json", str(figures)], Console(file=output, width=120))
    assert code == 0
    rows = json.loads(figures.read_text())["rows"]
    assert [(row["machine"], row["preset"]) for row in rows] == [
        ("native", "tiny"),
        ("as AVX2", "tiny"),
    ]
    for row in rows:
        assert row["images_per_s"] > 0
        assert row["training_s"] > row["step_ms"] / 1e3 > 0
    assert rows[1]["precision"] == "32-true"
    table = [line for line in output.getvalue().splitlines() if "│" in line]
    assert sum("tiny" in line for line in table) == 2
