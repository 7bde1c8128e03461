"""The guide about a language: this package builds its files; here, that it does so by its rules."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.docs.pages import read_page

PAGE = Path("docs/guides/new-language.md")
OURS = Path("tests/docs/language/BUILD.bazel")


def statements(starlark: str) -> set[str]:
    return {ast.unparse(statement) for statement in ast.parse(starlark).body}


def test_our_targets_are_those_of_the_page() -> None:
    theirs = statements(read_page(PAGE).files["mine/BUILD.bazel"])
    assert len(theirs) == 5
    assert theirs <= statements(OURS.read_text(encoding="utf-8"))


def test_the_page_names_the_module_as_we_do() -> None:
    line = next(x for x in PAGE.read_text(encoding="utf-8").splitlines() if "bazel_dep" in x)
    assert line in Path("MODULE.bazel").read_text(encoding="utf-8").splitlines()


def test_the_command_is_for_the_target_that_is_tested_here() -> None:
    assert read_page(PAGE).commands == ["./tools/bazel test //mine:test_brightness"]
