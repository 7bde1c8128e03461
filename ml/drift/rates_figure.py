"""The figure of an evaluation: detection by corruption and severity, one panel a window size."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ml.drift.rates import Rate
from ml.plots import HEAT
from tools.figures import INK, STYLE, new_figure


def rates_figure(rates: Sequence[Rate]) -> Figure:
    """Every cell written out; the title of a panel has the false alarms of its window size."""
    sizes = sorted({rate.size for rate in rates})
    spoiled = [rate for rate in rates if ":" in rate.condition]
    kinds = list(dict.fromkeys(rate.condition.split(":")[0] for rate in spoiled))
    severities = sorted({int(rate.condition.split(":")[1]) for rate in spoiled})
    figure = new_figure(1.6 + 2.7 * len(sizes), 1.3 + 0.42 * max(1, len(kinds)))
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
        for axes, size in zip(panels, sizes, strict=True):
            cells = np.full((len(kinds), len(severities)), np.nan)
            for rate in spoiled:
                kind, severity = rate.condition.split(":")
                if rate.size == size:
                    cells[kinds.index(kind), severities.index(int(severity))] = rate.rate
            if cells.size:
                axes.imshow(cells, cmap=HEAT, vmin=0, vmax=1, aspect="auto")
            for (row, column), share in np.ndenumerate(cells):
                color = "white" if share > 0.55 else INK
                text = f"{100 * share:.0f}"
                axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
            clean = next(r for r in rates if r.condition == "clean" and r.size == size)
            title = f"{size} images: % detected\nfalse alarms {clean.rate:.2%}"
            axes.set(title=title, xlabel="severity")
            axes.set_xticks(range(len(severities)), map(str, severities))
            axes.spines[:].set_visible(False)
        panels[0].set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds])
    return figure
