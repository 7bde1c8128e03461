"""Docstrings, signatures and types as HTML, with links to what they name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from griffe import Class, Expr, ExprName, Function, NameResolutionError, Object, ParameterKind
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup, escape

Address = Callable[[str], str | None]  # dotted path -> where its text stands, if it has one

_WIDEST = 84  # characters of a signature in one line
# Docstrings are plain text but for code, lists and paragraphs: a `*` in them multiplies.
_PLAIN = [
    *("autolink", "blockquote", "emphasis", "entity", "escape", "heading", "hr", "html_block"),
    *("html_inline", "image", "lheading", "link", "reference"),
]


class Words:
    """Turns what a source says into HTML for one page."""

    def __init__(self, address: Address) -> None:
        """Links lead where `address` says."""
        self._address = address
        self._markdown = MarkdownIt("commonmark").disable(_PLAIN)

        def code(_: RendererHTML, tokens: Sequence[Token], at: int, __: Any, env: Any) -> str:
            return Markup("<code>{}</code>").format(self.name(tokens[at].content, env["scope"]))

        self._markdown.add_render_rule("code_inline", code)

    def prose(self, text: str, scope: Object) -> Markup:
        """Paragraphs, lists and code; a name in backticks is looked up in the scope."""
        html = self._markdown.render(text, {"scope": scope})
        return Markup(html)  # nosec B704 # the renderer escapes, and takes no HTML

    def line(self, text: str, scope: Object) -> Markup:
        """The same without paragraphs."""
        html = self._markdown.renderInline(text, {"scope": scope})
        return Markup(html)  # nosec B704 # as above

    def expression(self, given: str | Expr | None) -> Markup:
        """A type, a default or a value."""
        if given is None or isinstance(given, str):
            return escape(given or "")
        parts = given.iterate(flat=True)
        return Markup("").join(map(self._part, parts))

    def name(self, text: str, scope: Object) -> Markup:
        """One name, perhaps dotted, linked if it is ours."""
        first, dot, rest = text.partition(".")
        try:
            path = scope.resolve(first) + dot + rest
        except (NameResolutionError, KeyError):
            path = text
        return self._link(text, self._address(path))

    def signature(self, thing: Function | Class) -> Markup:
        """Arguments in brackets and what comes back, in one line if it is a short one."""
        given = [p for p in thing.parameters if p.name not in ("self", "cls")]
        parts, star = list[Markup](), False
        for before, parameter in zip([None, *given], given, strict=False):
            kind = parameter.kind
            positional = ParameterKind.positional_only
            if before and before.kind is positional and kind is not positional:
                parts.append(Markup("/"))
            if kind is ParameterKind.keyword_only and not star:
                parts.append(Markup("*"))
            star |= kind in (ParameterKind.keyword_only, ParameterKind.var_positional)
            parts.append(self._parameter(parameter))
        returns = thing.returns if isinstance(thing, Function) else None
        arrow = Markup(" → {}").format(self.expression(returns)) if returns else Markup("")
        length = sum(len(part.striptags()) + 2 for part in [escape(thing.name), *parts, arrow])
        return Markup("({}){}").format(_laid_out(parts, length), arrow)

    def _parameter(self, parameter: Any) -> Markup:
        stars = {ParameterKind.var_positional: "*", ParameterKind.var_keyword: "**"}
        text = Markup("{}<b>{}</b>").format(stars.get(parameter.kind, ""), parameter.name)
        if parameter.annotation is not None:
            text += Markup(": {}").format(self.expression(parameter.annotation))
        if parameter.default is not None and not stars.get(parameter.kind):
            equals = " = " if parameter.annotation is not None else "="
            text += Markup("{}{}").format(equals, self.expression(parameter.default))
        return text

    def _part(self, part: str | Expr) -> Markup:
        if isinstance(part, ExprName):
            return self._link(part.name, self._address(part.canonical_path))
        return escape(str(part))

    @staticmethod
    def _link(text: str, address: str | None) -> Markup:
        return Markup('<a href="{}">{}</a>').format(address, text) if address else escape(text)


def _laid_out(parts: list[Markup], length: int) -> Markup:
    if length <= _WIDEST:
        return Markup(", ").join(parts)
    return Markup("\n{}\n").format(Markup("\n").join(Markup("    {},").format(p) for p in parts))
