"""Every link of every page leads somewhere, and every command names a target that exists."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

import pytest

from tests.tools.starlark import ROOT, read_targets

PAGES = [Path(name) for name in os.environ["PAGES"].split() if name.endswith(".md")]
BUILD_FILES = [Path(name) for name in os.environ["BAZEL_SOURCES"].split()]
_LINK = re.compile(r"\]\((?!https?:|mailto:)(?P<path>[^)#\s]*)(?:#(?P<anchor>[^)]*))?\)")
_TARGET = re.compile(r"(?:bazel|Bazel) (?:run|build|test) (?:--\S+ )*(//[\w/.-]*(?::[\w.-]+)?)")


@cache
def targets() -> set[str]:
    """Labels of all rules, as their BUILD files name them."""
    read = [read_targets(ROOT / path) for path in BUILD_FILES if path.name == "BUILD.bazel"]
    labels = {label for found in read for label in found}
    short = (label.partition(":") for label in labels)
    return labels | {folder for folder, _, name in short if folder.endswith(f"/{name}")}


def anchors(page: Path) -> set[str]:
    """As GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    bare = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in bare}


def test_there_are_pages() -> None:
    assert len(PAGES) > 10


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for found in _LINK.finditer(page.read_text(encoding="utf-8")):
        target = page.parent / found["path"] if found["path"] else page
        assert target.exists(), found[0]
        if found["anchor"]:
            assert found["anchor"] in anchors(target), found[0]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_name_targets_that_exist(page: Path) -> None:
    known = targets()
    for label in _TARGET.findall(page.read_text(encoding="utf-8")):
        label = label.rstrip(".:")
        reader = label.startswith("//mine:")
        if not reader and not label.endswith(("...", ":all", ":NAME", "/")):
            assert label in known, label
