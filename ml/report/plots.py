"""Plots of a run, without pyplot: equal input gives equal bytes."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from PIL import Image

from common.figures import BLUE, INK, MUTED, ORANGE, STYLE, has_glyphs, new_figure, whole_ticks
from ml.artifact.evaluation import CALIBRATION_BINS, Evaluation

FEW_IMAGES = 30  # bins with fewer images are too noisy for an accuracy

MOST_NAMED = 40  # maximum number of classes with a line each
_LONGEST = 24  # maximum length of a name in a plot

HEAT = LinearSegmentedColormap.from_list("kiln", ["#ffffff", "#cfe1f5", "#5b97d3", "#17457c"])

Rows = Sequence[Mapping[str, float]]
Images = NDArray[np.uint8]


def learning_curves(rows: Rows) -> Figure:
    """Loss and accuracy by epoch.

    Args:
        rows: one per epoch with `epoch` and any of `train/loss`, `val/loss`, `train/accuracy`,
            `val/accuracy`; missing values are omitted.
    """
    figure = new_figure(9.2, 3.2)
    with matplotlib.rc_context(STYLE):
        loss, accuracy = figure.subplots(1, 2)
        _curve(loss, rows, "loss", "Loss")
        _curve(accuracy, rows, "accuracy", "Accuracy")
        accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        best = max((row for row in rows if "val/accuracy" in row), key=_val_accuracy, default=None)
        if best:
            accuracy.plot(best["epoch"], _val_accuracy(best), "o", color=ORANGE, markersize=6)
            accuracy.set_title(f"Accuracy, best validation {_val_accuracy(best):.2%}")
    return figure


def confusion_matrix(evaluation: Evaluation) -> Figure:
    """Share of each class's images by predicted class, with numbers in cells; for more than
    `MOST_NAMED` classes only colours, by class number.
    """
    classes, counts = evaluation.classes, np.array(evaluation.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    is_named = len(classes) <= MOST_NAMED
    side = 2.2 + 0.52 * len(classes) if is_named else 9.2
    figure = new_figure(side, side - 0.4)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        axes = figure.subplots()
        axes.imshow(shares, cmap=HEAT, vmin=0, vmax=1)
        if is_named:
            _write_cells(axes, counts, shares)
            axes.set_xticks(range(len(classes)), shortened(classes), rotation=40, ha="right")
            axes.set_yticks(range(len(classes)), shortened(classes))
        kind = "" if is_named else ", class number"
        title = "Confusion matrix, share of each label"
        axes.set(xlabel=f"predicted{kind}", ylabel=f"label{kind}", title=title)
        axes.spines[:].set_visible(False)
    return figure


def _write_cells(axes: Axes, counts: NDArray[Any], shares: NDArray[Any]) -> None:
    for (row, column), share in np.ndenumerate(shares):
        if counts[row, column]:
            color = "white" if share > 0.55 else INK
            text = f"{share:.0%}" if share >= 0.005 else "·"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)


def shortened(names: Sequence[str]) -> list[str]:
    """Names truncated to the space in a plot."""
    return [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in names]


def in_glyphs(names: Sequence[str]) -> tuple[str, ...]:
    """Names with class numbers in place of those that the PNG's font cannot show."""
    return tuple(
        name if has_glyphs(name) else f"class {number}" for number, name in enumerate(names)
    )


def reliability(evaluation: Evaluation) -> Figure:
    """Accuracy by confidence above a histogram of confidence; calibration is the diagonal."""
    counts = np.array(evaluation.confidence_histogram)
    centres = (np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS
    filled, width = counts > 0, 0.9 / CALIBRATION_BINS
    figure = new_figure(4.6, 4.6)
    with matplotlib.rc_context(STYLE):
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        for chosen, alpha, label in (
            (counts >= FEW_IMAGES, 1.0, "accuracy"),
            (filled & (counts < FEW_IMAGES), 0.35, f"< {FEW_IMAGES} images"),
        ):
            if chosen.any():
                bars = np.array(evaluation.bin_accuracy)[chosen]
                top.bar(centres[chosen], bars, width, color=BLUE, alpha=alpha, label=label)
        confidence = np.array(evaluation.bin_confidence)[filled]
        top.plot(confidence, confidence, "_", color=ORANGE, markersize=9, markeredgewidth=2)
        top.plot([0, 1], [0, 1], "--", color=ORANGE, linewidth=1, label="confidence")
        title = f"Calibration error {evaluation.calibration_error:.4f}"
        top.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=title)
        top.legend(loc="upper left")
        bottom.bar(centres, counts / counts.sum(), width, color=BLUE)
        bottom.set(xlabel="confidence (top probability)", ylabel="images")
        for axis in (top.xaxis, top.yaxis, bottom.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def machine(rows: Rows) -> Figure:
    """CPUs and memory in use by time of training, and the GPU's if there was one.

    Args:
        rows: samples as `ml.training.monitors.SystemMonitor` writes them.
    """
    figure = new_figure(9.2, 2.4)
    panels = (
        ("CPUs in use", "cpu_percent", "gpu_percent", 100.0),
        ("Memory of the training, GB", "process_memory_gb", "gpu_process_memory_gb", 1.0),
    )
    with matplotlib.rc_context(STYLE):
        for axes, (title, cpu, gpu, scale) in zip(figure.subplots(1, 2), panels, strict=True):
            for name, color, label in ((cpu, BLUE, "CPU"), (gpu, ORANGE, "GPU")):
                points = [(r["elapsed_s"], r[name] / scale) for r in rows if name in r]
                if points:
                    marker = "o" if len(points) < 3 else ""
                    axes.plot(*zip(*points, strict=True), color=color, label=label, marker=marker)
            axes.set(title=title, xlabel="seconds", ylim=(0, 1.02 if scale == 100 else None))
            if scale == 100:
                axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            if len(axes.get_lines()) > 1:
                axes.legend()
    return figure


def per_class(evaluation: Evaluation) -> Figure:
    """Precision and recall of each class, worst F1 on top; at most `MOST_NAMED`."""
    order = np.argsort(evaluation.f1, kind="stable")[:MOST_NAMED][::-1]
    figure = new_figure(6.4, 1.2 + 0.34 * len(order))
    with matplotlib.rc_context(STYLE):
        axes = figure.subplots()
        y = np.arange(len(order))
        for values, color, name, offset in (
            (evaluation.precision, BLUE, "precision", 0.19),
            (evaluation.recall, ORANGE, "recall", -0.19),
        ):
            axes.barh(y + offset, np.array(values)[order], 0.34, color=color, label=name)
        for place, index in enumerate(order):
            text = f"F1 {evaluation.f1[index]:.3f}"
            axes.text(1.01, place, text, va="center", color=MUTED, fontsize=8)
        axes.set_yticks(y, shortened([evaluation.classes[i] for i in order]))
        some, every = len(order), len(evaluation.classes)
        title = (
            "Per class, worst first" if some == every else f"The worst {some} of {every} classes"
        )
        axes.set(xlim=(0, 1), title=title)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2)
    return figure


def mistakes(
    images: Images, labels: NDArray[Any], probabilities: NDArray[Any], classes: Sequence[str]
) -> Figure:
    """A grid of images captioned by true and predicted class, in the given order.

    It is one image with captions: axes for each would take ten times as long to draw.
    """
    columns = 8
    rows = max(1, -(-len(images) // columns))
    height, width = images.shape[1:3]
    gap, caption = max(1, width // 9), width // 2
    pitch = height + caption
    grid = np.full((rows * pitch, columns * (width + gap), 3), 255, np.uint8)
    figure = new_figure(1.25 * columns, 0.3 + 1.25 * columns * grid.shape[0] / grid.shape[1])
    with matplotlib.rc_context(STYLE):
        axes = figure.subplots()
        for index, image in enumerate(images):
            top, left = index // columns * pitch, index % columns * (width + gap)
            grid[top : top + height, left : left + width] = image
            taken_for = int(probabilities[index].argmax())
            name, guess = shortened([classes[int(labels[index])], classes[taken_for]])
            text = f"{name}\n→ {guess} {probabilities[index][taken_for]:.0%}"
            below = (left + width / 2, top + height + caption / 12)
            axes.text(*below, text, ha="center", va="top", fontsize=7.5)
        axes.imshow(grid, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title("Worst mistakes: label → prediction", loc="center", fontsize=10)
    return figure


def rate_test(rates: Sequence[float], losses: Sequence[float], suggestion: float | None) -> Figure:
    """Loss by learning rate, one step each, marking the rate of the steepest fall."""
    figure = new_figure(6.4, 3.6)
    with matplotlib.rc_context(STYLE):
        axes = figure.subplots()
        axes.plot(rates[: len(losses)], losses, color=BLUE)
        title = "no suggestion: the loss never decreased"
        if suggestion is not None:
            axes.axvline(suggestion, color=ORANGE, linestyle="--")
            title = f"suggested {suggestion:.2g}"
        # Beyond twice the first loss it has diverged, and would flatten the plot.
        axes.set_ylim(min(losses) * 0.95, min(max(losses), 2 * losses[0]) * 1.02)
        axes.set(title=f"Loss by learning rate, {title}", xscale="log", xlabel="learning rate")
        axes.set_ylabel("training loss, smoothed")
        axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:g}")  # its own would need math mode
    return figure


def contact_sheet(samples: Images) -> Images:
    """(N, M, H, W, 3) as one image of N rows and M columns, thinned to at most 96 pixels an image
    and with a white line between them."""
    step = -(-max(samples.shape[2:4]) // 96)
    thinned = samples[:, :, ::step, ::step]
    framed = np.pad(thinned, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)), constant_values=255)
    rows, columns, height, width, _ = framed.shape
    return framed.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, -1)[:-1, :-1]


def pixels_to_png(image: Images) -> bytes:
    """Encodes one (H, W, 3) image as PNG without scaling."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def data_uri(image: Images) -> str:
    """An (H, W, 3) image as the data URI of its PNG, for an <img>."""
    return f"data:image/png;base64,{base64.b64encode(pixels_to_png(image)).decode()}"


def _curve(axes: Axes, rows: Rows, name: str, title: str) -> None:
    for part, color in (("train", BLUE), ("val", ORANGE)):
        points = [(r["epoch"], r[f"{part}/{name}"]) for r in rows if f"{part}/{name}" in r]
        if points:
            label = {"train": "training", "val": "validation"}[part]
            marker = "o" if len(points) < 2 else ""
            axes.plot(*zip(*points, strict=True), color=color, label=label, marker=marker)
    axes.set(title=title, xlabel="epoch")
    whole_ticks(axes.xaxis)
    if axes.has_data():
        axes.legend()


def _val_accuracy(row: Mapping[str, float]) -> float:
    return row["val/accuracy"]
