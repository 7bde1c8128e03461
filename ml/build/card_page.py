"""Lays out a model card: as a page that opens from disk, or as Markdown for the repository."""

import html
import re
from pathlib import Path

from matplotlib.figure import Figure

from ml.build.card import Block, Code, Facts, Listing, Section, Table, sections
from ml.report import inline_svg
from tools.figures import to_svg

_TEMPLATE = Path(__file__).with_name("card_template.html")


def to_html(facts: Facts) -> str:
    """One file that refers to nothing outside itself; equal facts give equal text."""
    name = html.escape(facts.metadata.name)
    body = "".join(_section_to_html(section) for section in sections(facts))
    page = _TEMPLATE.read_text(encoding="utf-8")
    return page.replace("{{ title }}", name).replace("{{ body }}", body)


def to_markdown(facts: Facts) -> str:
    """The same without figures."""
    parts = [f"# Model card: {facts.metadata.name}"]
    for section in sections(facts):
        parts.append(f"## {section.title}")
        parts += [text for block in section.blocks if (text := _to_markdown(block))]
    return "\n\n".join(parts) + "\n"


def _section_to_html(section: Section) -> str:
    blocks = "".join(_to_html(block) for block in section.blocks)
    return f"<section><h2>{html.escape(section.title)}</h2>{blocks}</section>\n"


def _to_html(block: Block) -> str:
    match block:
        case Table(head, rows):
            first = "".join(f"<th scope=col>{html.escape(cell)}</th>" for cell in head)
            lines = (
                f"<tr><th scope=row>{html.escape(name)}</th>"
                + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
                + "</tr>"
                for name, *cells in rows
            )
            return f"<table><tr>{first}</tr>{''.join(lines)}</table>"
        case Listing(items):
            return "<ul>" + "".join(f"<li>{_prose(item)}</li>" for item in items) + "</ul>"
        case Code(text, folded):
            pre = f"<pre>{html.escape(text)}</pre>"
            title = "<summary>Resolved configuration</summary>"
            return f"<details>{title}{pre}</details>" if folded else pre
        case Figure():
            return f"<div class=figure>{inline_svg(to_svg(block))}</div>"
        case str():
            return f"<p>{_prose(block)}</p>"


def _prose(text: str) -> str:
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _to_markdown(block: Block) -> str:
    match block:
        case Table(head, rows):
            rule = ["---", *("---:" for _ in head[1:])]
            return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))
        case Listing(items):
            return "\n".join(f"- {item}" for item in items)
        case Code(text, folded):
            return "" if folded else f"```sh\n{text.strip()}\n```"
        case Figure():
            return ""
        case str():
            return block
