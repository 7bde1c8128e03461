"""ml/report/dataset.py and ml/commands/data.py: a dataset on one page."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from PIL import Image
from rich.console import Console

from ml.commands.data import BAD_INPUT, main
from ml.report.dataset import _sizes

CONSOLE = Console(width=200)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Thirty images of a class, four of the other, a copy with another class, two odd files."""
    monkeypatch.setenv("KILN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    chance, folder = np.random.default_rng(0), tmp_path / "photos"
    for name, count in (("<many>", 30), ("few", 4)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = chance.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    copied = (folder / "<many>" / "0.png").read_bytes()
    (folder / "few" / "copy.png").write_bytes(copied)
    (folder / "few" / "cut.png").write_bytes(copied[:100])
    (folder / "few" / "notes.txt").write_text("no image")
    return folder


def test_a_folder_is_shown_with_all_that_is_wrong_with_it(photos: Path, tmp_path: Path) -> None:
    assert main(["inspect", "photos", "data.image_size=8", "--out", "page.html"], CONSOLE) == 0
    found = json.loads((tmp_path / "page.json").read_text())
    assert found["counts"]["train"]["<many>"] + found["counts"]["test"]["<many>"] == 30
    assert found["nearly_empty"] == ["few"]
    assert (found["duplicates"], found["contradictions"]) == (1, 1)
    assert [one["path"] for one in found["damaged"]] == ["few/cut.png"]
    assert found["ignored"] == ["few/notes.txt"]
    page = (tmp_path / "page.html").read_text()
    assert "&lt;many&gt;" in page
    assert "<many>" not in page
    assert page.count("data:image/png;base64,") >= 6
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)  # nothing from elsewhere


def test_what_cannot_be_used_is_told_in_one_line(photos: Path, tmp_path: Path) -> None:
    assert main(["inspect", "phtos", "--out", "page.html"], CONSOLE) == BAD_INPUT
    assert main(["inspect", "photos", "data.resize=fit"], CONSOLE) == BAD_INPUT
    assert main(["inspect", "photos", "others"], CONSOLE) == BAD_INPUT
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("edges", [[28], [28, 29, 31], [20, 400]])
def test_sizes_are_counted_by_whole_pixels(edges: list[int]) -> None:
    figure = _sizes(np.array([(edge, edge + 3) for edge in edges]), (28, 28))
    [axes] = figure.axes
    drawn = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
    bars = [bar for bar in drawn if bar.get_height()]
    assert [bar.get_height() for bar in bars] == [1] * len(edges)
    assert all(tick == int(tick) for tick in axes.get_xticks())
    for bar, edge in zip(bars, edges, strict=True):
        assert bar.get_width() == int(bar.get_width()) >= 1
        assert bar.get_x() < edge < bar.get_x() + bar.get_width()
