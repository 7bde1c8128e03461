"""Writes files of a page where an action wants them: the page, then the paths, by their names."""

import sys
from pathlib import Path

from tests.docs.pages import read_page


def main(page: str, *paths: str) -> None:
    files = {Path(name).name: text for name, text in read_page(Path(page)).files.items()}
    for path in map(Path, paths):
        path.write_text(files[path.name], encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
