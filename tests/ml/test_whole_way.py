"""What training accepts, every later step accepts: generated datasets, from pixels to an answer of
the service."""

import re
import tempfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor, nn

from ml import stages
from ml.commands.report import card_facts, open_finished
from ml.data.datamodule import ImageData
from ml.registry.registry import Registry
from ml.report.model_card import to_html, to_markdown
from ml.runs.folder import RunFolder, open_run
from ml.training.config import resolved
from serve.inference.predictor import Predictor
from tests.serve.serving import base64_of, client, image_file


@dataclass(frozen=True)
class Made:
    """A dataset to be made."""

    names: tuple[str, ...]
    size: tuple[int, int]
    channels: int = 3
    surplus: int = 0  # images of the first class beyond those of each other one


class Generated(ImageData):
    """Images whose brightness tells the class, as far as 256 values do."""

    made = Made(("a", "b"), (8, 8))
    digest = "ab" * 32
    image_size = (8, 8)
    classes = ("a", "b")
    mean, std = (0.5,), (0.3,)

    def read(self, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        classes = len(self.classes)
        labels = np.arange(4 * classes if part == "train" else max(classes, 8)) % classes
        labels = np.append(labels, np.zeros(self.made.surplus, np.int64))
        random = np.random.default_rng(len(part))
        shades = (20 + 200 * labels // classes).reshape(-1, 1, 1, 1)
        noise = random.integers(0, 30, (len(labels), self.made.channels, *self.image_size))
        return (shades + noise).astype(np.uint8), labels


class Tiny(nn.Module):
    """A linear classifier of the mean colour."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, K)."""
        logits: Tensor = self.head(images.mean((2, 3)))
        return logits

    @torch.no_grad()
    def scale_logits(self, factor: float) -> None:
        """Multiplies all logits by a factor."""
        self.head.weight.mul_(factor)
        self.head.bias.mul_(factor)


_LETTERS = st.characters(exclude_categories=("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"))
_ODD = ("$5 & $x_2$", "猫", "été <b>", "a/b\\c", "100 %", "🐕", "x" * 100, "{{ title }}", "|`*_")


@st.composite
def _datasets(draw: st.DrawFn) -> Made:
    odd = st.one_of(st.sampled_from(_ODD), st.text(_LETTERS, min_size=1, max_size=20))
    names = draw(
        st.lists(
            odd.map(str.strip).filter(bool),
            min_size=2,
            max_size=6,
            unique_by=lambda name: unicodedata.normalize("NFC", name),
        )
    )
    more = draw(st.sampled_from([0, 40]))
    edges = st.integers(8, 40)
    return Made(
        (*names, *(f"class {number}" for number in range(more))),
        (draw(edges), draw(edges)),
        draw(st.sampled_from([1, 3])),
        draw(st.sampled_from([0, 30])),
    )


def _cfg(made: Made) -> DictConfig:
    small = (
        *("trainer.accelerator=cpu", "trainer.max_epochs=1", "trainer.precision=32-true"),
        *("callbacks.progress=null", "callbacks.system=null", "optimizer=sgd", "optimizer.lr=0.1"),
        *("data.size_milestones=[]", "data.sizes=null"),
    )
    cfg = resolved(small)
    cfg.data.batch_size = cfg.data.validation_size = len(made.names)
    cfg.data._target_ = "tests.ml.test_whole_way.Generated"
    cfg.data.folder = "unused"
    cfg.network = {"_target_": "tests.ml.test_whole_way.Tiny"}
    return cfg


@given(_datasets())
@example(Made((*_ODD, *(f"{number}" for number in range(991))), (8, 8), surplus=500))
@example(Made(("猫", "$"), (224, 224), channels=1))
@settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_what_trains_is_exported_drawn_registered_and_served(
    monkeypatch: pytest.MonkeyPatch, made: Made
) -> None:
    monkeypatch.setattr(Generated, "made", made)
    monkeypatch.setattr(Generated, "classes", made.names)
    monkeypatch.setattr(Generated, "image_size", made.size)
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(Path(folder, "run"), cfg := _cfg(made))
        summary = stages.train(cfg, run, Console(quiet=True))
        assert summary["test"]["images"] == max(len(made.names), 8) + made.surplus
        _check_report(run, made)
        data = run.model.read_bytes()
        manifest, _ = Registry.open(str(Path(folder, "registry")), who="ada").register(data)
        assert manifest.version == summary["model_version"]
        _check_answers(Predictor.load(run.model), made)


def _check_report(run: RunFolder, made: Made) -> None:
    page = run.report.read_text()
    assert page.count("{{ title }}") == made.names.count("{{ title }}") * page.count("{{ title }}")
    card = card_facts(open_finished(run.path), "again")
    assert made.names[0] in to_markdown(card)
    assert to_html(card).startswith("<!doctype html>")
    for path in run.plots.glob("*.png"):
        width, height = np.frombuffer(path.read_bytes()[16:24], ">u4")
        assert max(width, height) < 5000, path
    assert all(len(path.name.encode()) < 255 for path in run.mistakes.iterdir())
    assert run.report.stat().st_size < 3e6


def _check_answers(predictor: Predictor, made: Made) -> None:
    image = np.full((*made.size, 3), 40, np.uint8)
    with client(predictor) as http:
        assert tuple(http.get("/model/info").json()["classes"]) == made.names
        told: Any = http.post("/predict", json={"image": base64_of(image_file(image))})
        assert told.status_code == 200, told.text
        assert told.json()["label"] == made.names[told.json()["index"]]
        assert re.search("<html", http.get("/").text)
