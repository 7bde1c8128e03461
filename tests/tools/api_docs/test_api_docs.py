"""tools/api_docs: what of a module a page shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.api_docs import reading
from tools.api_docs.main import main
from tools.api_docs.reading import Sources

SHAPES = '''\
"""Shapes and their areas.

More about them.
"""

from dataclasses import dataclass
from geometry.units import Metre as Metre
import numpy_of_nobody as np

SIDES = 4  # of a square
_HIDDEN = 1
QUIET = 2  # noqa: E501
RESET = "\\x1b[0m"


@dataclass(frozen=True)
class Square:
    """Equal sides; see `area` and `Metre`."""

    edge: Metre  # <positive>
    tags: tuple[str, ...] = ()

    @property
    def corner(self) -> float:
        """90 degrees * 1, always.

        Raises:
            Bent: in other spaces.
        """
        return 90.0

    def __call__(self) -> None: ...

    def _secret(self) -> None: ...


class Pen:
    """Draws.

    Attributes:
        ink, paper: what it needs.
    """

    def __init__(self, colour: str = "red") -> None:
        """Of one colour."""
        self.ink = colour


def area(square: Square, /, *rest: Square, unit: str = "m<2>", **more: int) -> "np.ndarray | None":
    """The area.

    Args:
        square: whose.
        rest: more of them.

    Raises:
        ValueError: an edge is < 0.
    """


async def undocumented(): ...


def shown() -> None:
    """With more.

    Note:
        Use `area` instead.

    Examples:
        >>> shown() < 3
    """
'''
UNITS = '''\
"""Units."""

__all__ = ["Metre", "SIDES"]

from geometry.shapes import SIDES


class Metre(float):
    """One."""


class Foot(float):
    """No."""
'''
OUTLINE = """\
title = "T"
[folders]
geometry = "All."
[[interfaces]]
title = "I"
text = "What is used."
modules = ["geometry.shapes"]
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with one folder."""
    folder = tmp_path / "geometry"
    folder.mkdir()
    (folder / "shapes.py").write_text(SHAPES)
    (folder / "units.py").write_text(UNITS)
    (tmp_path / "outline.toml").write_text(OUTLINE)
    return tmp_path


def write(root: Path, *more: str) -> int:
    options = ["--outline", str(root / "outline.toml"), "--output", str(root / "out")]
    files = ["geometry/shapes.py", "geometry/units.py", *more]
    return main([*options, "--root", str(root), *files])


def page(root: Path, name: str) -> str:
    assert write(root) == 0
    return (root / "out" / f"{name}.html").read_text()


def words(html: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", "", html).split())


def test_public_names_are_shown_and_private_ones_are_not(root: Path) -> None:
    shown = page(root, "geometry.shapes")
    for name in ("SIDES", "Square.edge", "Square.corner", "Square.__call__", "Pen", "undocumented"):
        assert f'id="{name}"' in shown
    assert "_HIDDEN" not in shown
    assert "_secret" not in shown


def test_all_decides_where_there_is_one(root: Path) -> None:
    shown = page(root, "geometry.units")
    assert 'id="Metre"' in shown
    assert "Foot" not in shown
    assert 'Also from here: <code><a href="geometry.shapes.html#SIDES">SIDES</a></code>' in shown


def test_a_signature_has_all_kinds_of_arguments_and_is_escaped(root: Path) -> None:
    shown = words(page(root, "geometry.shapes"))
    assert (
        "area( square: Square, /, *rest: Square, unit: str = &#39;m&lt;2&gt;&#39;, **more: int, )"
        " → np.ndarray | None"
    ) in shown


def test_docstrings_are_text_in_which_a_star_multiplies(root: Path) -> None:
    shown = page(root, "geometry.shapes")
    assert "90 degrees * 1, always." in shown
    assert '<code><a href="geometry.shapes.html#area">area</a></code>' in shown
    assert '<code><a href="geometry.units.html#Metre">Metre</a></code>' in shown


def test_sections_become_lists(root: Path) -> None:
    shown = words(page(root, "geometry.shapes"))
    assert "Arguments squarewhose. restmore of them." in shown
    assert "Raises ValueErroran edge is &lt; 0." in shown
    assert "corner: float90 degrees * 1, always. Raises Bentin other spaces." in shown
    assert "Note Use area instead. Examples &gt;&gt;&gt; shown() &lt; 3" in shown
    assert "Draws. Of one colour. Attributes inkwhat it needs. paperwhat it needs." in shown


def test_comments_behind_values_are_shown_but_those_for_tools(root: Path) -> None:
    shown = words(page(root, "geometry.shapes"))
    assert "SIDES = 4of a square" in shown
    assert "edge: Metre&lt;positive&gt;" in shown
    assert "noqa" not in shown


def test_a_dataclass_shows_its_fields_once(root: Path) -> None:
    shown = words(page(root, "geometry.shapes"))
    assert "Square(" not in shown
    assert "tags: tuple[str, ...] = ()" in shown


def test_the_index_counts_docstrings(root: Path) -> None:
    shown = words(page(root, "index"))
    assert "7 of 8 classes, functions, methods and properties" in shown
    assert "geometry.shapesShapes and their areas." in shown


def test_a_page_that_python_cannot_import_is_not_needed(root: Path) -> None:
    (root / "geometry" / "shapes.py").write_text(SHAPES + "\nraise SystemExit(3)\n")
    assert write(root) == 0


def test_a_section_without_a_description_is_complained_of(root: Path) -> None:
    bad = 'def f(x: int) -> None:\n    """F.\n\n    Raises:\n        ValueError\n    """\n'
    (root / "geometry" / "bad.py").write_text(bad)
    sources = Sources(root, [Path("geometry/bad.py"), Path("geometry/shapes.py")])
    found = {source.name: reading.complaints(source) for source in sources.modules}
    assert len(found["geometry.bad"]) == 1
    assert "ValueError" in found["geometry.bad"][0]
    assert found["geometry.shapes"] == []


@pytest.mark.parametrize(
    ("outline", "sentence"),
    [
        (OUTLINE.replace("geometry.shapes", "geometry.ghost"), "do not exist: geometry.ghost"),
        (OUTLINE.replace("geometry =", "algebra ="), "has algebra, expected geometry"),
        (OUTLINE.replace("title", "titel", 1), "'title'"),
        (OUTLINE.replace("text", "txt"), "txt"),
        ("[", "outline.toml"),
    ],
)
def test_an_outline_that_does_not_fit_is_refused(
    root: Path, outline: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "outline.toml").write_text(outline)
    assert write(root) == 2
    assert sentence in capsys.readouterr().err


def test_a_file_that_is_no_python_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "geometry" / "broken.py").write_text("def f(:\n")
    assert write(root, "geometry/broken.py") == 2
    assert "geometry/broken.py" in capsys.readouterr().err


def test_a_section_that_no_page_can_show_is_named(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "geometry" / "odd.py").write_text('"""Odd.\n\nReceives:\n    int: often.\n"""\n')
    assert write(root, "geometry/odd.py") == 2
    assert "geometry/odd.py" in capsys.readouterr().err
