"""Writes the page template for `dvc plots` with embedded libraries, so that it opens offline.
Arguments: the page to write, then vega, vega-lite and vega-embed as files.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>Kiln: plots by revision</title>
@SCRIPTS@
<style>
  body { font: 14px/1.4 system-ui, sans-serif; color: #1f2a37; margin: 24px; }
  body { display: flex; flex-wrap: wrap; gap: 28px; }
  body > div { max-width: 100%; overflow-x: auto; }
  table { border-spacing: 15px; }
  img { max-width: 640px; }
</style>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def page(libraries: Sequence[str]) -> str:
    """The page template. An empty library is loaded from the network, as DVC does by default."""
    if not all(libraries):
        return _PAGE.replace("@SCRIPTS@", "{scripts}")
    scripts = (f"<script>{_inside_a_page(text)}</script>" for text in libraries)
    return _PAGE.replace("@SCRIPTS@", "\n".join(scripts))


def _inside_a_page(text: str) -> str:
    """A script that can be embedded in HTML without closing its element."""
    return re.sub(r"</(script)", r"<\\/\1", text, flags=re.IGNORECASE)


def main() -> None:
    output, *libraries = map(Path, sys.argv[1:])
    output.write_text(page([path.read_text(encoding="utf-8") for path in libraries]), "utf-8")


if __name__ == "__main__":
    main()
