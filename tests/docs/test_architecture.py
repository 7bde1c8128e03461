"""The table of docs/architecture.md says which folder imports which, no more and no less."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

FOLDERS = ("benchmarks", "common", "infra", "ml", "serve", "tools")
MODULES = [Path(name) for name in os.environ["MODULES"].split() if name.endswith(".py")]
PAGE = Path("docs/architecture.md").read_text(encoding="utf-8")
_MODULE = re.compile(r"\]\(\.\./([\w/]+\.py)\)")
_ROW = re.compile(r"^\| `(\w+)/` \|[^|]*\| ([^|]*?) ?\|$", re.MULTILINE)


def permissions() -> dict[str, set[str]]:
    """By folder: what its row lets it import."""
    return {folder: set(re.findall(r"`(\w+)`", cell)) for folder, cell in _ROW.findall(PAGE)}


PERMISSIONS = permissions()


@cache
def imports(path: Path) -> list[str]:
    """What a module imports anywhere, in functions and for types alone too."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively: read that here, too"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def across() -> list[tuple[Path, str]]:
    """Modules and the other folders that they import of."""
    pairs = [(path, name.partition(".")[0]) for path in MODULES for name in imports(path)]
    return [(path, top) for path, top in pairs if top in FOLDERS and top != path.parts[0]]


def test_every_folder_has_a_row_and_there_are_imports_to_check() -> None:
    assert set(FOLDERS) <= set(PERMISSIONS)
    assert {path.parts[0] for path in MODULES} == set(FOLDERS)
    assert {path.parts[0] for path, _ in across()} == set(FOLDERS) - {"common"}


def test_a_folder_imports_what_its_row_allows_and_nothing_else() -> None:
    found: dict[str, set[str]] = {folder: set() for folder in FOLDERS}
    for path, top in across():
        found[path.parts[0]].add(top)
    assert found == {folder: PERMISSIONS[folder] for folder in FOLDERS}


@pytest.mark.parametrize("depth", ["module", "folder"])
def test_nothing_is_imported_in_a_circle(depth: str) -> None:
    names = {".".join(path.with_suffix("").parts): path for path in MODULES}
    graph: dict[str, set[str]] = {}
    for module, path in names.items():
        needed = {name for found in imports(path) for name in (found, found.rpartition(".")[0])}
        ends = (module, *(name for name in needed if name in names))
        if depth == "folder":
            ends = tuple(names[name].parent.as_posix() for name in ends)
        graph.setdefault(ends[0], set()).update(set(ends[1:]) - {ends[0]})
    TopologicalSorter(graph).prepare()  # raises CycleError


def undescribed(node: ast.AST) -> Iterator[str]:
    """Public classes, functions and methods below a node that have no docstring."""
    definitions = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, definitions) and not inner.name.startswith("_"):
            if ast.get_docstring(inner) is None:
                yield f"{inner.name}, line {inner.lineno}"
            if isinstance(inner, ast.ClassDef):
                yield from undescribed(inner)


@pytest.mark.parametrize("module", _MODULE.findall(PAGE))
def test_what_a_project_builds_on_has_docstrings(module: str) -> None:
    assert list(undescribed(ast.parse(Path(module).read_text(encoding="utf-8")))) == []


def test_the_contract_imports_the_standard_library_alone() -> None:
    contract = [path for path in MODULES if path.is_relative_to("common/model")]
    imported = {module for path in contract for module in imports(path)}
    foreign = {name for name in imported if not name.startswith("common.model.")}
    assert contract
    assert {name.partition(".")[0] for name in foreign} <= sys.stdlib_module_names
