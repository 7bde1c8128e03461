"""Writes the pages of the Python API: what `bazel build //docs:api` runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.api_docs.entries import UnknownSection
from tools.api_docs.pages import BadOutline, Outline, Site
from tools.api_docs.reading import Sources, UnreadableSource


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 2 if the outline or a file is unusable."""
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--outline", type=Path, required=True, help="TOML: what the index says")
    parser.add_argument("--output", type=Path, required=True, help="folder of the pages")
    parser.add_argument("--root", type=Path, default=Path(), help="that the files' names start at")
    parser.add_argument("files", type=Path, nargs="+", help="modules: path/from/the/root.py")
    options = parser.parse_args(arguments)
    try:
        site = Site(Sources(options.root, options.files), Outline.read(options.outline))
        site.write(options.output)
    except (BadOutline, UnknownSection, UnreadableSource) as exc:
        print(f"api_docs: {exc}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
