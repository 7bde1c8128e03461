"""The plot style of all programs, without pyplot's global state, and HTML pages with plots.

with matplotlib.rc_context(STYLE):
    figure = new_figure(8, 4)
    ...
to_png(figure)  # equal input gives equal bytes
"""

import html
import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import MaxNLocator

# Legible on white; reports override these colours in dark mode.
INK, MUTED, LINE = "#1f2a37", "#6b7684", "#dfe4ea"
BLUE, ORANGE, GREEN, RED = "#2b6cb0", "#d9730d", "#2f855a", "#c53030"
# Line colours that colour-blind readers can distinguish (Okabe, Ito 2008).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": LINE,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "kiln",
    "text.color": INK,
    "text.parse_math": False,  # names may contain dollars, which would start math mode
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of the given size in inches, with automatic layout."""
    return Figure(figsize=(width, height), dpi=144, layout="constrained")


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(STYLE["font.family"][0])).get_charmap())


def has_glyphs(text: str) -> bool:
    """Whether a PNG can show a text: Matplotlib's bundled font has no Chinese glyphs, and system
    fonts would make the bytes depend on the machine. SVGs leave fonts to the viewer.
    """
    return all(ord(character) in _glyphs() for character in text)


def whole_ticks(axis: Axis) -> None:
    """Ticks at whole numbers only, even if there is but one."""
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def to_png(figure: Figure) -> bytes:
    """PNG bytes without date or version, so equal figures give equal bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        _lay_out(figure)
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def to_svg(figure: Figure) -> str:
    """An SVG document with selectable text and no date."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        _lay_out(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _lay_out(figure: Figure) -> None:
    """Runs the automatic layout once; savefig would run it and draw everything twice per format."""
    if figure.axes and (engine := figure.get_layout_engine()):  # of an empty figure it warns
        engine.execute(figure)
        figure.set_layout_engine(None)


_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    BLUE: "var(--blue)",
    ORANGE: "var(--orange)",
}


def inline_svg(svg: str) -> str:
    """An SVG without its prologue, coloured by the page's CSS."""
    body = svg[svg.index("<svg") :]
    for color, variable in _VARIABLES.items():
        body = body.replace(color, variable)
    return body.replace("fill: #ffffff", "fill: none")


_HEAD = Path(__file__).with_name("page_head.html")


def fill(template: Path, parts: Mapping[str, str]) -> str:
    """Replaces each ``{{ name }}`` of the template; ``{{ head }}`` is the style of all pages."""
    parts = {"head": _HEAD.read_text(encoding="utf-8"), **parts}
    head, *pieces = template.read_text(encoding="utf-8").split("{{")
    names = (piece.split("}}", 1) for piece in pieces)
    return head + "".join(parts[name.strip()] + rest for name, rest in names)


def cards(facts: Iterable[Sequence[str]]) -> str:
    """A card for each fact: its name, its value and perhaps a note."""
    texts = ([html.escape(text) for text in fact] for fact in facts)
    return "".join(
        f'<div class="card"><h3>{name}</h3><p>{value}</p>'
        f"{''.join(f'<small>{note}</small>' for note in notes)}</div>"
        for name, value, *notes in texts
    )
