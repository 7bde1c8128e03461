"""The table of docs/architecture.md says which folder imports which, no more and no less."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

FOLDERS = ("infra", "ml", "serve", "tools")
MODULES = [Path(name) for name in os.environ["MODULES"].split() if name.endswith(".py")]
_ROW = re.compile(r"^\| `([\w/]+)/` \|[^|]*\| ([^|]*?) ?\|$", re.MULTILINE)


class Permission(NamedTuple):
    """Modules below `module` may be imported, in files below `where`."""

    module: str
    where: str

    def covers(self, path: Path, module: str) -> bool:
        within = path.as_posix() == self.where or path.is_relative_to(self.where)
        return within and f"{module}.".startswith(f"{self.module}.")


def permissions() -> dict[str, list[Permission]]:
    """By folder: `a`, `b` in its cell are modules; `a` in `b/c` means there alone."""
    page = Path("docs/architecture.md").read_text(encoding="utf-8")
    found: dict[str, list[Permission]] = {}
    for folder, cell in _ROW.findall(page):
        found[folder] = []
        for clause in cell.split("; "):
            names = re.findall(r"`([^`]+)`", clause)
            places = [name.rstrip("/") for name in names if "/" in name] or [folder]
            modules = [name for name in names if "/" not in name]
            found[folder] += [Permission(name, where) for name in modules for where in places]
    return found


PERMISSIONS = permissions()


def imports(path: Path) -> Iterator[str]:
    """What a module imports anywhere, in functions and for types alone too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively: read that here, too"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def across() -> list[tuple[Path, str]]:
    """Modules and what they import of other folders."""
    pairs = [(path, module) for path in MODULES for module in imports(path)]
    return [
        (path, module)
        for path, module in pairs
        if (top := module.partition(".")[0]) in FOLDERS and top != path.parts[0]
    ]


def test_every_folder_has_a_row_and_there_are_imports_to_check() -> None:
    assert {*FOLDERS, "serve/contract"} <= set(PERMISSIONS)
    assert {path.parts[0] for path in MODULES} == set(FOLDERS)
    assert {path.parts[0] for path, _ in across()} == {"infra", "ml", "serve"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_what_its_row_allows(folder: str) -> None:
    wrong = [
        f"{path} imports {module}"
        for path, module in across()
        if path.parts[0] == folder
        and not any(permission.covers(path, module) for permission in PERMISSIONS[folder])
    ]
    assert wrong == []


def test_a_row_allows_nothing_that_nobody_imports() -> None:
    found = across()
    stale = [
        permission
        for folder in FOLDERS
        for permission in PERMISSIONS[folder]
        if not any(permission.covers(path, module) for path, module in found)
    ]
    assert stale == []


def test_the_contract_imports_the_standard_library_alone() -> None:
    assert PERMISSIONS["serve/contract"] == []
    contract = [path for path in MODULES if path.is_relative_to("serve/contract")]
    imported = {module for path in contract for module in imports(path)}
    foreign = {name for name in imported if not name.startswith("serve.contract.")}
    assert contract
    assert {name.partition(".")[0] for name in foreign} <= sys.stdlib_module_names
