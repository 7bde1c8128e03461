"""The figure of an online evaluation: after how many images each corruption raises the alarm."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ml.drift.online import Detection, Silence
from ml.plots import HEAT
from tools.figures import INK, STYLE, new_figure


def online_figure(silences: Sequence[Silence], detections: Sequence[Detection]) -> Figure:
    """A panel a window: the share detected as colour; in a cell, that and the median delay."""
    kinds = list(dict.fromkeys(d.condition.split(":")[0] for d in detections))
    severities = sorted({int(d.condition.split(":")[1]) for d in detections})
    figure = new_figure(1.8 + 3.2 * len(silences), 1.5 + 0.46 * max(1, len(kinds)))
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        panels = figure.subplots(1, len(silences), sharey=True, squeeze=False)[0]
        for axes, silence in zip(panels, silences, strict=True):
            cells = np.full((len(kinds), len(severities)), np.nan)
            for d in detections:
                if d.window != silence.window:
                    continue
                kind, severity = d.condition.split(":")
                row, column = kinds.index(kind), severities.index(int(severity))
                cells[row, column] = d.rate
                text = f"{d.rate:.0%}" + ("" if d.delay is None else f" after {d.delay:,.0f}")
                color = "white" if d.rate > 0.55 else INK
                axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
            if cells.size:
                axes.imshow(cells, cmap=HEAT, vmin=0, vmax=1, aspect="auto")
            title = (
                f"{silence.window:,} images: share raised, after how many\n"
                f"clean: {silence.alarms} alarms in {silence.windows:,} windows"
            )
            axes.set(title=title, xlabel="severity")
            axes.set_xticks(range(len(severities)), map(str, severities))
            axes.spines[:].set_visible(False)
        panels[0].set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds])
    return figure
