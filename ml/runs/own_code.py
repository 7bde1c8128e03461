"""User code that a configuration reaches: modules behind each ``_target_`` that are neither ours
nor installed, and their imports from the same places.

Nothing is imported: files are found as the import system would find them, and read.
"""

import ast
import importlib.machinery
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from common.files import sha256_of

ROOT = Path(__file__).absolute().parents[2]
_OURS = ("ml", "common")
_INSTALLED = {"site-packages", "dist-packages"}  # folders of a path
_LOOKS_UP = "hydra.utils.get_"  # get_class, get_method, get_object: their path argument names code


def own_code(cfg: DictConfig) -> dict[str, Path]:
    """Each module's file by module name; packages are their ``__init__.py``."""
    found: dict[str, Path] = {}
    waiting = list(_targets(OmegaConf.to_container(cfg, resolve=True)))
    seen = set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for module, path in _own_modules(name):
            if module not in found:
                found[module] = path
                waiting += _imports(module, path)
    return dict(sorted(found.items()))


def own_code_digests(cfg: DictConfig) -> dict[str, str]:
    """SHA-256 in hex of each module's file, by module name."""
    return {name: sha256_of(path) for name, path in own_code(cfg).items()}


def outside_of_the_build(cfg: DictConfig) -> list[Path]:
    """Files among them that are not inputs of a build action, so that its cache key would ignore
    them.
    """
    runfiles = [folder for folder in ROOT.parents if folder.name.endswith(".runfiles")]
    given = runfiles[0] if runfiles else ROOT
    return [path for path in own_code(cfg).values() if not path.is_relative_to(given)]


def _targets(value: Any) -> Iterator[str]:
    """Dotted names that a configuration instantiates or calls, at any depth."""
    if isinstance(value, dict):
        target = str(value.get("_target_", ""))
        yield from filter(None, (target, str(value.get("path", "")) * target.startswith(_LOOKS_UP)))
    for entry in value.values() if isinstance(value, dict) else value:
        if isinstance(entry, dict | list):
            yield from _targets(entry)


def _own_modules(name: str) -> Iterator[tuple[str, Path]]:
    """The modules along a dotted name, from the top-level package on."""
    parts = name.split(".")
    if not parts[0] or parts[0] in _OURS or parts[0] in sys.stdlib_module_names:
        return
    folders: list[str] | None = None  # search path of the next one, initially sys.path
    for length in range(1, len(parts) + 1):
        module = ".".join(parts[:length])
        # By its last part: for a full name, a namespace package would need its parent imported.
        spec = importlib.machinery.PathFinder.find_spec(parts[length - 1], folders)
        if spec is None:
            return  # a class or function, or nothing, which training then reports
        if spec.origin and spec.has_location:
            path = Path(spec.origin)
            if _INSTALLED & {*path.resolve().parts}:
                return
            yield module, path
        if spec.submodule_search_locations is None:
            return
        folders = list(spec.submodule_search_locations)


def _imports(module: str, path: Path) -> Iterator[str]:
    """Dotted names that a file imports anywhere; the last part may not be a module."""
    if path.suffix != ".py":
        return
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # training reports it
        return
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: -node.level + 1 or None] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)
