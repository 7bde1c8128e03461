"""Every link of every page leads somewhere, and every command names a target that exists."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

PAGES = [Path(name) for name in os.environ["PAGES"].split() if name.endswith(".md")]
BUILD_FILES = [Path(name) for name in os.environ["BAZEL_SOURCES"].split()]
_LINK = re.compile(r"\]\((?!https?:|mailto:)(?P<path>[^)#\s]*)(?:#(?P<anchor>[^)]*))?\)")
_TARGET = re.compile(r"(?:bazel|Bazel) (?:run|build|test) (?:--\S+ )*(//[\w/.-]*(?::[\w.-]+)?)")
# A target, or one of several that are made from a table of their names.
_NAME = re.compile(r'^(?:    name = |        (?="[\w-]+"(?:: |,$)))"([^"]+)"', re.MULTILINE)


def targets() -> set[str]:
    """Labels of all rules, as their BUILD files name them."""
    found = set()
    for path in BUILD_FILES:
        if path.name == "BUILD.bazel":
            package = str(path.parent).removeprefix(".")
            text = path.read_text(encoding="utf-8")
            for name in _NAME.findall(text):
                found.add(f"//{package}:{name}")
                if name == path.parent.name:
                    found.add(f"//{package}")
    return found


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
