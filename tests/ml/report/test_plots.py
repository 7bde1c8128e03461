"""ml/report/plots.py: figures that say what the numbers say, and the same bytes for the same
numbers."""

import io
import xml.etree.ElementTree as ET
from collections.abc import Callable

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from common.figures import to_png, to_svg
from ml.artifact.evaluation import Evaluation, evaluate
from ml.report import plots

ROWS = [
    {"epoch": 1, "train/loss": 2.0, "train/accuracy": 0.3, "val/loss": 1.5, "val/accuracy": 0.5},
    {"epoch": 2, "train/loss": 1.0, "train/accuracy": 0.6, "val/loss": 1.0, "val/accuracy": 0.75},
    {"epoch": 3, "train/loss": 0.5, "train/accuracy": 0.9, "val/loss": 1.1, "val/accuracy": 0.7},
]
SAMPLES = [
    {"elapsed_s": 0.0, "cpu_percent": 50.0, "process_memory_gb": 1.0},
    {"elapsed_s": 5.0, "cpu_percent": 100.0, "process_memory_gb": 1.5, "gpu_percent": 80.0},
]
IMAGES = np.arange(4 * 8 * 8 * 3, dtype=np.uint8).reshape(4, 8, 8, 3)
PROBABILITIES = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])
LABELS = np.array([0, 1, 1, 0])


def evaluation() -> Evaluation:
    return evaluate(PROBABILITIES, LABELS, ("cat & co", "dog"))


DRAW: dict[str, Callable[[], Figure]] = {
    "learning_curves": lambda: plots.learning_curves(ROWS),
    "confusion_matrix": lambda: plots.confusion_matrix(evaluation()),
    "reliability": lambda: plots.reliability(evaluation()),
    "per_class": lambda: plots.per_class(evaluation()),
    "machine": lambda: plots.machine(SAMPLES),
    "mistakes": lambda: plots.mistakes(IMAGES[2:], LABELS[2:], PROBABILITIES[2:], ("cat", "dog")),
}


def texts(figure: Figure) -> list[str]:
    """Everything written in a figure."""
    return [element.text or "" for element in ET.fromstring(to_svg(figure)).iter()]


@pytest.mark.parametrize("name", DRAW)
def test_drawing_twice_gives_the_same_bytes_and_leaves_global_settings_alone(name: str) -> None:
    before = dict(matplotlib.rcParams)
    once, again = DRAW[name](), DRAW[name]()
    assert to_svg(once) == to_svg(again)
    png = to_png(once)
    assert png == to_png(again)
    assert dict(matplotlib.rcParams) == before
    with Image.open(io.BytesIO(png)) as image:
        assert min(image.size) > 200
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 10


def test_curves_hold_the_values_of_the_rows() -> None:
    loss, accuracy = plots.learning_curves(ROWS).axes
    drawn = {str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in loss.lines}
    assert drawn["training"] == [[1, 2.0], [2, 1.0], [3, 0.5]]
    assert drawn["validation"] == [[1, 1.5], [2, 1.0], [3, 1.1]]
    assert accuracy.get_title(loc="left") == "Accuracy, best validation 75.00%"


@pytest.mark.parametrize("rows", [[], ROWS[:1], [{"epoch": 1, "train/loss": 2.0}, *ROWS[1:]]])
def test_curves_of_short_or_patchy_runs_are_drawn(rows: list[dict[str, float]]) -> None:
    assert to_png(plots.learning_curves(rows)).startswith(b"\x89PNG")


def test_the_confusion_matrix_names_classes_and_shares() -> None:
    written = texts(plots.confusion_matrix(evaluation()))
    assert written.count("50%") == 4
    assert {"cat & co", "dog", "label", "predicted"} <= {*written}


def test_reliability_bars_are_the_accuracies_of_the_bins() -> None:
    top, bottom = plots.reliability(evaluation()).axes
    accuracies = heights(top)
    assert accuracies == [a for a, n in zip(*bins(), strict=True) if n]
    assert sum(heights(bottom)) == pytest.approx(1)


def heights(axes: Axes) -> list[float]:
    """Of the bars."""
    return [bar.get_height() for bar in axes.patches if isinstance(bar, Rectangle)]


def bins() -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Accuracy and size of each bin."""
    return evaluation().bin_accuracy, evaluation().confidence_histogram


def test_mistakes_are_titled_with_label_prediction_and_confidence() -> None:
    figure = DRAW["mistakes"]()
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["dog\n→ cat 70%", "cat\n→ dog 60%"]
    height, width = IMAGES[2].shape[:2]
    drawn = np.asarray(axes.images[0].get_array())
    np.testing.assert_array_equal(drawn[:height, :width], IMAGES[2])


def test_no_mistakes_are_an_empty_grid() -> None:
    assert to_png(plots.mistakes(IMAGES[:0], LABELS[:0], PROBABILITIES[:0], ("a", "b")))


def test_pixels_survive_the_png() -> None:
    with Image.open(io.BytesIO(plots.pixels_to_png(IMAGES[0]))) as image:
        np.testing.assert_array_equal(np.asarray(image), IMAGES[0])


def test_the_machine_is_drawn_with_a_gpu_only_where_there_was_one() -> None:
    processors, memory = plots.machine(SAMPLES).axes
    assert [line.get_label() for line in processors.get_lines()] == ["CPU", "GPU"]
    assert [line.get_label() for line in memory.get_lines()] == ["CPU"]
    assert processors.get_lines()[0].get_ydata().tolist() == [0.5, 1.0]  # type: ignore[union-attr]


def test_a_bin_of_few_images_is_drawn_pale() -> None:
    many = evaluate(np.repeat([[0.55, 0.45], [0.97, 0.03]], (2, 40), axis=0), [0] * 42, "ab")
    bars = plots.reliability(many).axes[0].patches
    assert sorted(bar.get_alpha() or 0 for bar in bars) == [0.35, 1.0]


def many(classes: int, names: tuple[str, ...] = ()) -> Evaluation:
    """Two images of each class, the second taken for the next class."""
    labels = np.repeat(np.arange(classes), 2)
    guesses = (labels + np.arange(2 * classes) % 2) % classes
    every = (*names, *(f"class {number}" for number in range(len(names), classes)))
    return evaluate(np.eye(classes)[guesses], labels, every)


def test_plots_of_a_thousand_classes_stay_within_a_page() -> None:
    evaluation = many(1000)
    for figure in (plots.confusion_matrix(evaluation), plots.per_class(evaluation)):
        assert max(figure.get_size_inches()) < 20
    assert len(plots.per_class(evaluation).axes[0].get_yticks()) == plots.MOST_NAMED
    assert not plots.confusion_matrix(evaluation).axes[0].texts


def test_a_name_is_written_as_it_is_and_a_long_one_is_cut() -> None:
    figure = plots.confusion_matrix(many(3, ("$5 & $x_2$", "猫", "x" * 100)))
    written = texts(figure)
    assert {"$5 & $x_2$", "猫", "x" * 23 + "…"} <= {*written}


def test_a_png_names_by_number_what_its_font_cannot_write() -> None:
    assert plots.in_glyphs(("été", "猫", "$", "ловушка")) == ("été", "class 1", "$", "ловушка")
