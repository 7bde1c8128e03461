"""A folder of pages about modules: an index, a page for each, and a search that needs no server."""

from __future__ import annotations

import json
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from griffe import Class, Module, Object
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tools.api_docs import reading
from tools.api_docs.entries import Definition, Page, Writer
from tools.api_docs.reading import Source, Sources
from tools.api_docs.words import Words

_TEMPLATES = Path(__file__).absolute().with_name("templates")
_COPIED = ["search.js", "style.css"]


class BadOutline(ValueError):
    """The outline names what is not there."""


@dataclass(frozen=True)
class Group:
    """Modules that a task needs."""

    title: str
    text: str
    modules: list[str]


@dataclass(frozen=True)
class Outline:
    """What the index says besides the modules' own words."""

    title: str
    folders: dict[str, str]
    interfaces: list[Group]

    @classmethod
    def read(cls, path: Path) -> Outline:
        """From TOML.

        Raises:
            BadOutline: the file is no TOML, or keys are missing or unknown.
        """
        try:
            with path.open("rb") as file:
                found = tomllib.load(file)
            return cls(
                found["title"], found["folders"], [Group(**one) for one in found["interfaces"]]
            )
        except (tomllib.TOMLDecodeError, KeyError, TypeError) as exc:
            raise BadOutline(f"{path}: {exc}; docs/api.toml of Kiln is an example") from exc


@dataclass(frozen=True)
class Line:
    """A module in a list."""

    name: str
    summary: Markup


class Site:
    """The pages of a set of modules."""

    def __init__(self, sources: Sources, outline: Outline) -> None:
        """Checks the outline against the modules.

        Raises:
            BadOutline: it names a module that was not given, or leaves a folder out.
        """
        self._sources, self._outline = sources, outline
        self._by_name = {source.name: source for source in sources.modules}
        self._words = Words(self._address)
        self._check()
        self._jinja = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def write(self, folder: Path) -> None:
        """One HTML file a module, beside the index."""
        folder.mkdir(parents=True, exist_ok=True)
        found: list[list[str]] = []
        for source in self._sources.modules:
            page = Writer(source, self._words).page()
            found += _found(page, source)
            near = [name for name in self._by_name if _folder(name) == _folder(page.name)]
            self._render("module.html", folder / _file(page.name), page=page, near=near)
        self._render("index.html", folder / "index.html", **self._index())
        lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in found)
        (folder / "names.js").write_text(f"const NAMES = [\n{lines}\n];\n", encoding="utf-8")
        for name in _COPIED:
            (folder / name).write_bytes((_TEMPLATES / name).read_bytes())

    def _render(self, template: str, path: Path, **values: Any) -> None:
        text = self._jinja.get_template(template).render(
            title=self._outline.title, file=_file, folder=_folder, **values
        )
        path.write_text(text.rstrip() + "\n", encoding="utf-8")

    def _index(self) -> dict[str, Any]:
        sources = self._sources.modules
        told = [is_told for source in sources for _, is_told in reading.described(source)]
        groups = [(one, self._lines(one.modules)) for one in self._outline.interfaces]
        tops = [(top, text, self._folders(top)) for top, text in self._outline.folders.items()]
        return {"interfaces": groups, "tops": tops, "told": sum(told), "definitions": len(told)}

    def _folders(self, top: str) -> list[tuple[str, list[Line]]]:
        folders = defaultdict[str, list[str]](list)
        for name in self._by_name:
            if name.split(".")[0] == top:
                folders[_folder(name)].append(name)
        return [(folder, self._lines(names)) for folder, names in sorted(folders.items())]

    def _lines(self, names: list[str]) -> list[Line]:
        modules = [self._by_name[name].module for name in names]
        return [Line(m.path, self._words.line(reading.summary(m), m)) for m in modules]

    def _address(self, path: str) -> str | None:
        """A page and a place in it, for what is public and ours."""
        thing = self._sources.find(path)
        if thing is None or thing.module.path not in self._by_name:
            return None
        if isinstance(thing, Module):
            return _file(thing.path)
        source = self._by_name[thing.module.path]
        return f"{_file(source.name)}#{_place(thing)}" if _is_shown(thing, source) else None

    def _check(self) -> None:
        named = [name for group in self._outline.interfaces for name in group.modules]
        if unknown := [name for name in named if name not in self._by_name]:
            raise BadOutline(f"interfaces name modules that do not exist: {', '.join(unknown)}")
        tops = {name.split(".")[0] for name in self._by_name}
        if tops != self._outline.folders.keys():
            raise BadOutline(
                f"[folders] has {', '.join(sorted(self._outline.folders))}, "
                f"expected {', '.join(sorted(tops))}"
            )


def _found(page: Page, source: Source) -> Iterator[list[str]]:
    """Entries of the search: name, kind, address, summary."""
    file = _file(page.name)
    yield [page.name, "module", file, reading.summary(source.module)]

    def entry(name: str, kind: str, anchor: str, path: str) -> list[str]:
        return [f"{page.name}.{name}", kind, f"{file}#{anchor}", _summary(source, path)]

    def of(definition: Definition) -> Iterator[list[str]]:
        yield entry(definition.anchor, definition.kind, definition.anchor, definition.anchor)
        for value in definition.values:
            yield entry(value.anchor, "attribute", value.anchor, value.anchor)
        for method in definition.methods:
            yield from of(method)

    for value in page.values:
        yield entry(value.name, "value", value.anchor, value.anchor)
    for definition in page.classes + page.functions:
        yield from of(definition)


def _summary(source: Source, anchor: str) -> str:
    try:
        thing = source.module[anchor]
    except KeyError:  # an attribute that the docstring alone names
        return ""
    return reading.summary(thing)


def _is_shown(thing: Object, source: Source) -> bool:
    """Whether a page has a place for it."""
    parent = thing.parent
    if parent is source.module:
        return thing in source.members
    if isinstance(parent, Class) and parent in source.members:
        return thing in reading.members(parent) and not isinstance(thing, Class)
    return False


def _place(thing: Object) -> str:
    return thing.path.removeprefix(thing.module.path + ".")


def _file(module: str) -> str:
    return f"{module}.html"


def _folder(module: str) -> str:
    return module.rpartition(".")[0]
