"""Builds the documentation site with MkDocs: the repository's pages, and the API of its modules.

The site mirrors the tree: a README is the page of its folder, and a file's page has the file's
path. A module's page is its API, a configuration's its text. Equal sources give equal bytes.
"""

from __future__ import annotations

import argparse
import ast
import logging
import os
import re
import sys
import tempfile
import tokenize
from collections.abc import Container, Mapping, Sequence
from functools import cache
from os.path import basename, dirname, join, normpath, relpath
from pathlib import Path
from typing import Any

import griffe
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import MkDocsException

_IMAGES = (".png", ".svg")
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)(?P<path>[^)#\s]+)")
_DIAGRAM = "```mermaid\n"
_MERMAID, _WORKER = "assets/mermaid.js", "assets/iframe-worker.js"
_FOR_TOOLS = re.compile(r"(noqa|pragma:|type: ignore|ruff:)")


class Pages:
    """Markdown by path, with links between pages."""

    def __init__(self, root: Path, files: Sequence[str]) -> None:
        self._root = root
        self._files = sorted(set(files))
        self._folders = sorted({folder for file in self._files for folder in _folders(file)})
        self.images = [file for file in self._files if file.endswith(_IMAGES)]
        self.texts = {f"{folder}/README.md": self._contents(folder) for folder in self._folders}
        for file in self._files:
            if file not in self.images:
                self.texts[_page(file)] = self._text(file)

    def navigation(self) -> list[Any]:
        """Guides and general pages first, then the tree."""
        tops = [folder for folder in self._inside("", self._folders) if folder != "docs"]
        about = [*self._inside("docs", self.texts), *self._inside("", self.texts)]
        return [
            {"Kiln": "README.md"},
            {"Guides": self._inside("docs/guides", self.texts)},
            {"About": [page for page in about if page.endswith(".md") and "." not in page[:-3]]},
            *({top: self._tree(top)} for top in tops),
        ]

    def _tree(self, folder: str) -> list[Any]:
        below = [{basename(f): self._tree(f)} for f in self._inside(folder, self._folders)]
        pages = self._inside(folder, self.texts)
        own = [{basename(page).removesuffix(".md"): page} for page in pages]
        return [f"{folder}/README.md", *below, *own]

    def _inside(self, folder: str, paths: Sequence[str] | Mapping[str, str]) -> list[str]:
        inside = sorted(path for path in paths if dirname(path) == folder)
        return [path for path in inside if basename(path) != "README.md"]

    def _text(self, file: str) -> str:
        if file.endswith(".py"):
            return f"::: {file.removesuffix('.py').replace('/', '.')}\n"
        if file.endswith(".md"):
            return _LINK.sub(lambda link: self._follow(file, link["path"]), self._read(file))
        kind = Path(file).suffix.removeprefix(".")
        return f"# `{file}`\n\n````{kind}\n{self._read(file)}````\n"

    def _follow(self, page: str, link: str) -> str:
        """Rewrites a link to a page's path. MkDocs reports broken ones."""
        target = normpath(join(dirname(page), link))
        target = f"{target}/README.md" if target in self._folders else _page(target)
        return relpath(target, dirname(page) or ".")

    def _contents(self, folder: str) -> str:
        """The page of a folder without a README."""
        below = [basename(inside) for inside in self._inside(folder, self._folders)]
        lines = [f"- [`{name}/`]({name}/README.md)" for name in below]
        for file in self._inside(folder, self._files):
            summary = self._summary(file) if file.endswith(".py") else ""
            lines.append(f"- [`{basename(file)}`]({basename(_page(file))}){summary}")
        return "\n".join([f"# `{folder}/`\n", *lines, ""])

    def _summary(self, module: str) -> str:
        docstring = ast.get_docstring(ast.parse(self._read(module)))
        first = (docstring or "").partition("\n\n")[0]
        return first and ": " + first.replace("\n", " ")

    def _read(self, file: str) -> str:
        return (self._root / file).read_text(encoding="utf-8")


def _page(file: str) -> str:
    return file if file.endswith((".md", *_IMAGES)) else f"{file.removesuffix('.py')}.md"


def _folders(file: str) -> list[str]:
    return [str(folder) for folder in Path(file).parents][:-1]


def write_site(root: Path, files: Sequence[str], scripts: Sequence[Path], output: Path) -> None:
    """Builds the site from files into a folder.

    Args:
        root: the folder that file names are relative to; it contains docs/mkdocs.yml.
        files: pages, modules, configurations and images.
        scripts: mermaid.js for diagrams, iframe-worker.js for search in pages opened from disk;
            empty files count as missing.
        output: the site's folder.

    Raises:
        MkDocsException: a link is broken, or a docstring cannot be parsed.
    """
    pages = Pages(root, files)
    assets = {f"assets/{script.name}": script for script in scripts if script.stat().st_size}
    with tempfile.TemporaryDirectory() as folder:
        for name, text in pages.texts.items():
            _write(Path(folder, name), _with_diagrams(name, text, assets).encode())
        for name, source in (assets | {image: root / image for image in pages.images}).items():
            _write(Path(folder, name), source.read_bytes())
        config = load_config(
            str(root / "docs/mkdocs.yml"),
            docs_dir=folder,
            site_dir=str(output.absolute()),
            nav=pages.navigation(),
        )
        handler = config.plugins["mkdocstrings"].config.handlers["python"]
        handler["paths"] = [str(root.absolute())]
        handler["options"]["extensions"] = ["tools.docs.build_site"]
        config.plugins["material/offline"].config.enabled = _WORKER in assets
        config.plugins.on_startup(command="build", dirty=False)
        build(config)


class Comments(griffe.Extension):
    """Trailing comments of fields and constants become their descriptions.

    Griffe, the reader of the modules, finds this class by the name of its module.
    """

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Takes the comment on an attribute's last line if there is no docstring."""
        said = _comments(Path(str(attr.filepath))).get(attr.endlineno or 0)
        if said and attr.docstring is None:
            attr.docstring = griffe.Docstring(said, lineno=attr.endlineno, parent=attr)


@cache
def _comments(path: Path) -> dict[int, str]:
    """Trailing comments addressed to readers, by line."""
    with path.open(encoding="utf-8") as file:
        found = [t for t in tokenize.generate_tokens(file.readline) if t.type == tokenize.COMMENT]
    behind = [token for token in found if token.line[: token.start[1]].strip()]
    texts = {token.start[0]: token.string.lstrip("# ") for token in behind}
    return {line: text for line, text in texts.items() if not _FOR_TOOLS.match(text)}


def _with_diagrams(page: str, text: str, assets: Container[str]) -> str:
    """Loads a local copy of Mermaid on pages with diagrams; the theme would use the network."""
    if _DIAGRAM not in text:
        return text
    if _MERMAID not in assets:
        return text.replace(_DIAGRAM, "```text\n")
    return f'{text}\n<script src="{relpath(_MERMAID, dirname(page) or ".")}"></script>\n'


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exits with 1 if a page has an error."""
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--output", type=Path, required=True, help="folder of the site")
    parser.add_argument("--root", type=Path, default=Path(), help="that the files' names start at")
    parser.add_argument("--script", type=Path, action="append", default=[], help="for browsers")
    parser.add_argument("files", nargs="+", help="pages, modules and what they link to")
    options = parser.parse_args(arguments)
    os.environ["SOURCE_DATE_EPOCH"] = "0"  # reproducible: no build time in pages
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        write_site(options.root, options.files, options.script, options.output)
    except MkDocsException as exc:
        print(f"docs: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
