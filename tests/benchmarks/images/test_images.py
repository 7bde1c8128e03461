"""benchmarks/images: what a folder of photos costs is measured and told."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.images import main as program


def test_every_figure_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # In this very process, which has loaded its libraries; the memory is then anybody's.
    monkeypatch.setattr(
        program,
        "_in_process",
        lambda photos, edge, memory_gib: program.epochs(str(photos), edge, memory_gib),
    )
    monkeypatch.setenv("KILN_CACHE", "the program has its own")
    few = ["--images", "600", "--size", "48", "32", "--edge", "16", "--out", str(tmp_path)]
    assert program.main(few, Console(width=120)) == 0
    found = json.loads((tmp_path / "images.json").read_text())
    assert found["images"] == 600
    assert found["packing_share"] > 0
    for kind in ("from_memory", "from_disk"):
        for speeds in ("images_per_s", "trained_images_per_s"):
            assert len([speed for speed in found[kind][speeds] if speed > 0]) == 2
    assert "trained epoch 2, from disk" in capsys.readouterr().out
