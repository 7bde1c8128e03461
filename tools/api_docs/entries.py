"""What a page shows of each class, function and value, ready for the templates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from griffe import (
    Attribute,
    Class,
    DocstringAttribute,
    DocstringSection,
    DocstringSectionKind,
    Function,
    Object,
)
from markupsafe import Markup

from tools.api_docs import reading
from tools.api_docs.reading import Source
from tools.api_docs.words import Words

_LONGEST_VALUE = 100  # characters of a constant
_TITLES = {
    DocstringSectionKind.parameters: "Arguments",
    DocstringSectionKind.raises: "Raises",
    DocstringSectionKind.warns: "Warns",
    DocstringSectionKind.returns: "Returns",
    DocstringSectionKind.yields: "Yields",
}


class UnknownSection(ValueError):
    """A docstring has a section that no page knows how to show."""


@dataclass(frozen=True)
class Facts:
    """A section of a docstring: names with what is said of each."""

    title: str
    rows: list[tuple[Markup, Markup]]  # the name may be empty, as in what a function returns


@dataclass(frozen=True)
class Value:
    """A constant, a field or a property."""

    name: str
    anchor: str
    type: Markup
    value: Markup
    text: Markup
    facts: list[Facts] = field(default_factory=list)  # of a property


@dataclass(frozen=True)
class Definition:
    """A class or a function."""

    kind: Literal["class", "function", "method"]
    name: str
    anchor: str
    labels: list[str]  # async, classmethod, …
    signature: Markup
    bases: list[Markup]
    text: Markup
    facts: list[Facts]
    values: list[Value]
    methods: list[Definition]
    line: int
    code: str  # of a function; a class shows its methods'


@dataclass(frozen=True)
class Page:
    """Of one module."""

    name: str
    path: str
    text: Markup
    values: list[Value]
    classes: list[Definition]
    functions: list[Definition]
    offered: list[Markup]  # from other modules


class Writer:
    """Makes the entries of one module."""

    def __init__(self, source: Source, words: Words) -> None:
        """With the links of one page."""
        self._source, self._words = source, words

    def page(self) -> Page:
        """Everything public."""
        module, members = self._source.module, self._source.members
        text, _, _ = self._docstring(module)
        return Page(
            name=self._source.name,
            path=module.path.replace(".", "/") + ".py",
            text=text,
            values=[self._value(m) for m in members if isinstance(m, Attribute)],
            classes=[self._class(m) for m in members if isinstance(m, Class)],
            functions=[self._function(m) for m in members if isinstance(m, Function)],
            offered=[self._words.name(name, module) for name in self._source.offered],
        )

    def _class(self, cls: Class) -> Definition:
        text, facts, told = self._docstring(cls)
        start = cls.members.get("__init__")
        if isinstance(start, Function):
            more, further, _ = self._docstring(start)
            text, facts = text + more, facts + further
        is_dataclass = "dataclass" in cls.labels
        methods = [m for m in reading.members(cls) if isinstance(m, Function)]
        return Definition(
            kind="class",
            name=cls.name,
            anchor=self._anchor(cls),
            labels=["dataclass" if is_dataclass else "class"],
            # The fields of a dataclass are its arguments, each with what is said of it.
            signature=self._words.signature(cls) if start and not is_dataclass else Markup(""),
            bases=[self._words.expression(base) for base in cls.bases],
            text=text,
            facts=facts,
            values=self._attributes(cls, told),
            methods=[self._function(method) for method in methods],
            line=cls.lineno or 0,
            code="",
        )

    def _attributes(self, cls: Class, told: dict[str, Markup]) -> list[Value]:
        """Those of the code, then those that the docstring alone names."""
        found = [m for m in reading.members(cls) if isinstance(m, Attribute)]
        names = told.keys() - {attribute.name for attribute in found}
        return [self._value(attribute, told) for attribute in found] + [
            Value(name, f"{cls.name}.{name}", Markup(""), Markup(""), said)
            for name, said in told.items()
            if name in names
        ]

    def _function(self, function: Function) -> Definition:
        text, facts, _ = self._docstring(function)
        return Definition(
            kind="method" if isinstance(function.parent, Class) else "function",
            name=function.name,
            anchor=self._anchor(function),
            labels=sorted({"async", "classmethod", "staticmethod"} & function.labels),
            signature=self._words.signature(function),
            bases=[],
            text=text,
            facts=facts,
            values=[],
            methods=[],
            line=function.lineno or 0,
            code=function.source,
        )

    def _value(self, attribute: Attribute, told: dict[str, Markup] | None = None) -> Value:
        own, facts, _ = self._docstring(attribute)
        comment = self._words.line(self._source.comment(attribute), attribute)
        shown = "" if _is_computed(attribute) else attribute.value
        return Value(
            name=attribute.name,
            anchor=self._anchor(attribute),
            type=self._words.expression(attribute.annotation),
            value=self._words.expression(shown) if _is_short(shown) else Markup("…"),
            text=own or (told or {}).get(attribute.name, Markup("")) or comment,
            facts=facts,
        )

    def _docstring(self, thing: Object) -> tuple[Markup, list[Facts], dict[str, Markup]]:
        """Its text, its sections, and what it says of attributes."""
        text, facts, told = Markup(""), list[Facts](), dict[str, Markup]()
        for section in reading.sections(thing):
            if section.kind is DocstringSectionKind.text:
                text += self._words.prose(section.value, thing)
            elif section.kind is DocstringSectionKind.attributes:
                for item in section.value:
                    said = self._words.line(item.description, thing)
                    told.update(dict.fromkeys(_names(item), said))
            else:
                facts.append(self._facts(section, thing))
        return text, facts, told

    def _facts(self, section: DocstringSection, thing: Object) -> Facts:
        if section.kind is DocstringSectionKind.admonition:
            said = self._words.prose(section.value.contents, thing)
            return Facts(section.title or "", [(Markup(""), said)])
        if section.kind is DocstringSectionKind.examples:
            text = "\n\n".join(text for _, text in section.value)
            return Facts("Examples", [(Markup(""), Markup("<pre>{}</pre>").format(text))])
        if section.kind not in _TITLES:
            raise UnknownSection(
                f"{thing.relative_filepath}:{thing.lineno}: {thing.name} has a section "
                f"{section.title or section.kind.value!r}; known are "
                f"{', '.join(_TITLES.values())}, Attributes and Examples"
            )
        rows = []
        for item in section.value:
            if section.kind in (DocstringSectionKind.raises, DocstringSectionKind.warns):
                name = self._words.name(str(item.annotation), thing)
            else:
                name = Markup.escape(getattr(item, "name", ""))
            rows.append((name, self._words.line(item.description, thing)))
        return Facts(_TITLES[section.kind], rows)

    def _anchor(self, thing: Object) -> str:
        return thing.path.removeprefix(self._source.name + ".")


def _names(item: DocstringAttribute) -> list[str]:
    """Of attributes that a docstring describes together: `rank, ranks: which share …`."""
    # The parser takes what follows a space for a type.
    text = f"{item.name} {item.annotation}" if item.name.endswith(",") else item.name
    return text.split(", ")


def _is_computed(attribute: Attribute) -> bool:
    """Whether its value is known at run time alone: a property, or set by `__init__`."""
    parent = attribute.parent
    if not isinstance(parent, Class) or "dataclass" in parent.labels:
        return False
    return "property" in attribute.labels or "class-attribute" not in attribute.labels


def _is_short(value: object) -> bool:
    text = str(value or "")
    return len(text) <= _LONGEST_VALUE and "\n" not in text
