"""Modules as their source says: names, docstrings, comments behind fields. Nothing is imported."""

from __future__ import annotations

import io
import logging
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import griffe
from griffe import Attribute, Class, DocstringSection, Function, Module, Object

# A section of its own for what a function returns, as one text: a colon in it is a colon.
_GOOGLE = {"returns_multiple_items": False, "returns_named_value": False}
_FOR_TOOLS = re.compile(r"\s*(?:#\s*)?(?:noqa|nosec|pragma:|type: ignore|ruff:)")
# Special methods that people meet as syntax; others show if they have something to say.
_SYNTAX = {"__call__", "__enter__", "__getitem__", "__iter__", "__len__"}
_CONSTRUCTION = {"__init__", "__post_init__", "__new__"}


class UnreadableSource(ValueError):
    """A file that is no module of the folders."""


@dataclass(frozen=True)
class Source:
    """One module."""

    module: Module
    path: Path  # from the root of the repository

    @property
    def name(self) -> str:
        """Dotted, as it is imported."""
        return self.module.path

    @property
    def members(self) -> list[Object]:
        """What the module defines for others, in the order of its lines."""
        found = [m for m in self.module.members.values() if not m.is_alias and not m.is_module]
        return [m for m in found if isinstance(m, Object) and self._is_public(m.name)]

    @property
    def offered(self) -> list[str]:
        """Names of `__all__` that other modules define."""
        exports = [name for name in self.module.exports or () if isinstance(name, str)]
        return sorted(name for name in exports if self.module.members[name].is_alias)

    @cached_property
    def comments(self) -> dict[int, str]:
        """Behind the code, by number of the line."""
        text = self.path.read_text(encoding="utf-8")
        return {
            token.start[0]: token.string.lstrip("# ")
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
            if token.type == tokenize.COMMENT
            and token.line[: token.start[1]].strip()
            and not _FOR_TOOLS.match(token.string.lstrip("# "))
        }

    def comment(self, attribute: Attribute) -> str:
        """What stands behind an attribute's last line."""
        return self.comments.get(attribute.endlineno or 0, "")

    def _is_public(self, name: str) -> bool:
        exports = self.module.exports
        return name in exports if exports is not None else not name.startswith("_")


class Sources:
    """All modules, and where a name of one leads."""

    def __init__(self, root: Path, paths: Iterable[Path]) -> None:
        """Reads Python files; a path is taken from the root.

        Raises:
            UnreadableSource: a file cannot be imported by its path, or is no Python.
        """
        self._loader = griffe.GriffeLoader(
            search_paths=[root], docstring_parser="google", allow_inspection=False
        )
        given = {".".join(path.with_suffix("").parts): path for path in sorted(paths)}
        for folder in sorted({name.split(".")[0] for name in given}):
            try:
                self._loader.load(folder)
            except (ImportError, SyntaxError) as exc:
                raise UnreadableSource(f"{folder}/ in {root.absolute()}: {exc}") from exc
        self.modules = [Source(self._module(name, p), root / p) for name, p in given.items()]

    def find(self, path: str) -> Object | None:
        """What a dotted path stands for, behind all re-exports; None if that is elsewhere."""
        try:
            found = self._loader.modules_collection[path]
            target = found.final_target if found.is_alias else found
        except (KeyError, griffe.GriffeError):
            return None
        return target if isinstance(target, Object) else None

    def _module(self, name: str, path: Path) -> Module:
        found = self.find(name)
        if not isinstance(found, Module) or found.is_namespace_package:
            raise UnreadableSource(f"{path}: not read as the module {name}; is it Python?")
        return found


def members(cls: Class) -> list[Object]:
    """Public methods and attributes of a class, inherited ones not among them."""
    own = [m for m in cls.members.values() if isinstance(m, Object)]
    return [m for m in own if not m.name.startswith("_") or _is_worth_showing(m)]


def _is_worth_showing(member: Object) -> bool:
    name = member.name
    if not isinstance(member, Function) or name in _CONSTRUCTION or not name.endswith("__"):
        return False
    return name in _SYNTAX or member.docstring is not None


def described(source: Source) -> Iterator[tuple[Object, bool]]:
    """Public classes, functions, methods and properties; whether each has a docstring."""
    for member in source.members:
        if isinstance(member, Class):
            yield member, member.docstring is not None
            for inner in members(member):
                if isinstance(inner, Function | Class) or "property" in inner.labels:
                    special = inner.name.startswith("_")
                    yield inner, special or inner.docstring is not None
        elif isinstance(member, Function):
            yield member, member.docstring is not None


def sections(thing: Object) -> list[DocstringSection]:
    """Of a docstring in Google's style."""
    return thing.docstring.parse("google", warnings=False, **_GOOGLE) if thing.docstring else []


def complaints(source: Source) -> list[str]:
    """Sections of its docstrings that do not parse, each with its line."""
    heard = _Ears()
    logger = logging.getLogger("griffe")
    logger.addHandler(heard)
    try:
        for thing in _everything(source.module):
            if thing.docstring:
                thing.docstring.parse("google", warn_unknown_params=False, **_GOOGLE)
    finally:
        logger.removeHandler(heard)
    return [text for text in heard.texts if "No type or annotation" not in text]


def _everything(thing: Object) -> Iterator[Object]:
    yield thing
    for member in thing.members.values():
        if isinstance(member, Object) and not member.is_module:
            yield from _everything(member)


class _Ears(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def summary(thing: Object) -> str:
    """The first paragraph of a docstring, in one line."""
    text = thing.docstring.value if thing.docstring else ""
    return " ".join(text.strip().split("\n\n")[0].split())
