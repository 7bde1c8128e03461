"""The simulation as a picture: false roll backs against the stated rate, and how harm is found."""

from collections.abc import Sequence

import matplotlib
import numpy as np

from infra.release.verdict.policy import Policy
from infra.release.verdict.simulation.rates import Outcome
from tools.figures import BLUE, RED, STYLE, new_figure, to_png


def draw_rates(outcomes: Sequence[Outcome], policy: Policy) -> bytes:
    """PNG: harmless releases on the left, rolled back ones by window on the right."""
    with matplotlib.rc_context(STYLE):
        figure = new_figure(13, 4.6)
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.6])
        harmless = [one for one in outcomes if one.harmless]
        rates = np.array([one.rate for one in harmless])
        ends = np.array([one.interval for one in harmless])
        spread = np.abs(ends.T - rates) * 100
        left.errorbar(100 * rates, range(len(rates)), xerr=spread, fmt="o", color=BLUE, capsize=4)
        left.axvline(100 * policy.false_alarm_rate, color=RED, linestyle="--")
        left.annotate(
            " stated bound", (100 * policy.false_alarm_rate, len(rates) - 0.55), color=RED
        )
        left.set_yticks(range(len(rates)), [one.scenario for one in harmless])
        left.set_ylim(-0.5, len(rates) - 0.4)
        left.set_xlim(0, 135 * policy.false_alarm_rate)
        left.set_xlabel("rolled back, % of releases (95 % interval)")
        left.set_title("Harmless releases that were rolled back")
        colours = matplotlib.colormaps["tab20"].colors  # type: ignore[attr-defined]
        harmful = [one for one in outcomes if not one.harmless]
        for place, one in enumerate(harmful):
            share = 100 * np.cumsum(one.by_window) / one.releases
            windows = np.arange(1, len(share) + 1)
            right.plot(windows, share, "o-", markersize=3, color=colours[place], label=one.scenario)
        right.set_xlabel("looks")
        right.set_ylabel("rolled back so far, % of releases")
        right.set_title("Harmful releases")
        right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return to_png(figure)
