"""BUILD and .bzl files, read and run without Bazel: as far as ours go, Starlark is Python."""

from __future__ import annotations

import ast
import builtins
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).absolute().parents[2]


class Failed(Exception):
    """What `fail` said."""


def load_bzl(path: str) -> dict[str, Any]:
    """The top level of a .bzl file of this repository, its loads resolved."""
    anything = _Anything()
    scope: dict[str, Any] = dict.fromkeys(
        ("attr", "module_extension", "rule", "tag_class"), anything
    )
    scope["attr"] = SimpleNamespace(
        **dict.fromkeys(
            ("bool", "int", "string", "string_dict", "string_list", "string_list_dict"), anything
        ),
        label=lambda default=None, **_: default,
        label_list=lambda default=(), **_: default,
    )
    scope["repository_rule"] = lambda **definition: SimpleNamespace(**definition)

    def load(label: str, *names: str) -> None:
        loaded = load_bzl(label.removeprefix("//").replace(":", "/"))
        scope.update({name: loaded[name] for name in names})

    def fail(*messages: object) -> None:
        raise Failed(" ".join(map(str, messages)))

    scope |= {"load": load, "fail": fail}
    text = (ROOT / path).read_text(encoding="utf-8")
    exec(compile(text, path, "exec"), scope)  # noqa: S102 # ours
    return scope


class _Anything:
    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __add__(self, other: Any) -> Any:
        return other

    __radd__ = __or__ = __ror__ = __add__


@dataclass(frozen=True)
class Target:
    """A rule or macro that a BUILD file calls; `package` is a path, "" for the root."""

    kind: str
    package: str
    attributes: Mapping[str, Any]

    def labels(self, name: str) -> list[str]:
        """The labels of an attribute, a single one or a list, in full."""
        value = self.attributes.get(name) or []
        return [
            full_label(text, self.package)
            for text in ([value] if isinstance(value, str) else value)
        ]

    @property
    def main(self) -> str:
        """The file that a py_binary of //tools:defs.bzl runs."""
        return self.attributes.get("main") or next(iter(self._own_file()), "main.py")

    @property
    def files(self) -> list[str]:
        """Paths of its Python sources, those that are generated excepted."""
        sources = self.labels("srcs") + self.labels("helpers")
        if "srcs" not in self.attributes:
            sources += [full_label(name, self.package) for name in self._default_sources()]
        paths = [label.removeprefix("//").replace(":", "/") for label in sources]
        return [path for path in paths if path.endswith(".py") and (ROOT / path).is_file()]

    def _own_file(self) -> list[str]:
        name = f"{self.attributes['name']}.py"
        return [name] if (ROOT / self.package / name).is_file() else []

    def _default_sources(self) -> list[str]:
        """As the macros of //tools:defs.bzl choose them."""
        folder = {path.name for path in (ROOT / self.package).glob("*.py")}
        tests = {name for name in folder if name.startswith("test_")}
        match self.kind:
            case "py_binary":
                return [self.main]
            case "py_library":
                return self._own_file() or sorted(folder - tests)
            case "pytest_test":
                name = self.attributes["name"]
                is_file = name.startswith("test_") or name.endswith("_test")
                return (
                    self._own_file()
                    if is_file
                    else sorted(tests - set(self.attributes.get("exclude", ())))
                )
        return []


def full_label(text: str, package: str) -> str:
    """`//package:name` from any way to write it in `package`; another repository's as it is."""
    if text.startswith("@"):
        return text
    if not text.startswith("//"):
        return f"//{package}:{text.removeprefix(':')}"
    folder, _, name = text.removeprefix("//").partition(":")
    return f"//{folder}:{name or folder.rpartition('/')[2]}"


class _Choices(list[Any]):
    """All that a `select` may choose; two of dictionaries are joined by `|`."""

    def __or__(self, other: list[Any]) -> _Choices:
        return _Choices([*self, *other])


def read_targets(path: Path) -> dict[str, Target]:
    """The targets of a BUILD file by their full labels; comprehensions are run, of the macros only
    `aliases`."""
    package = "" if path.parent == ROOT else path.parent.relative_to(ROOT).as_posix()
    targets: dict[str, Target] = {}

    def declare(kind: str, attributes: dict[str, Any]) -> _Anything:
        if "name" in attributes:
            targets[f"//{package}:{attributes['name']}"] = Target(kind, package, attributes)
        return anything

    def aliases(*, targets: dict[str, str], **_: Any) -> None:
        for name, actual in targets.items():
            declare("alias", {"name": name, "actual": actual})

    def glob(include: list[str], exclude: Any = (), **_: Any) -> list[str]:
        left = {file for pattern in exclude for file in path.parent.glob(pattern)}
        found = {file for pattern in include for file in path.parent.glob(pattern)} - left
        return sorted(file.relative_to(path.parent).as_posix() for file in found)

    def select(branches: dict[str, Any]) -> _Choices:
        lists = (value for value in branches.values() if isinstance(value, list))
        return _Choices(text for value in lists for text in value)

    anything = _Anything()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    scope: dict[str, Any] = {node.id: anything for node in names if node.id not in dir(builtins)}
    scope |= {
        node.id: lambda *_, kind=node.id, **attributes: declare(kind, attributes)
        for node in names
        if id(node) in called and node.id not in dir(builtins)
    }
    scope |= {"aliases": aliases, "glob": glob, "select": select}
    exec(compile(tree, str(path), "exec"), scope)  # noqa: S102 # ours
    return targets


class BazelPath(type(Path())):  # type: ignore[misc] # the concrete class of this system
    """What `repository_ctx.path` gives: attributes where Python has methods."""

    @property
    def exists(self) -> bool:
        return os.path.exists(self)

    @property
    def is_dir(self) -> bool:
        return os.path.isdir(self)


@dataclass
class RepositoryContext:
    """A `repository_ctx` over a real folder; ``watched`` is what asks for a new fetch."""

    folder: Path
    environment: Mapping[str, str]
    attr: SimpleNamespace
    os: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(name="linux", arch="amd64"))
    watched: set[str] = field(default_factory=set)

    def getenv(self, name: str) -> str | None:
        self.watched.add(f"${name}")
        return self.environment.get(name)

    def which(self, name: str) -> str | None:
        return shutil.which(name, path=self.environment.get("PATH", ""))

    def watch(self, path: object) -> None:
        self.watched.add(str(path))

    watch_tree = watch

    def path(self, name: object) -> BazelPath:
        return BazelPath(self.folder / str(name))

    def file(self, name: str, content: str, executable: bool = True) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")

    def symlink(self, target: object, name: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(str(target))

    @property
    def workspace_root(self) -> Path:
        return self.folder

    def report_progress(self, text: str) -> None:
        pass

    def execute(
        self,
        command: list[object],
        timeout: int = 600,
        quiet: bool = True,
        working_directory: str = "",
    ) -> SimpleNamespace:
        done = subprocess.run(
            [str(word) for word in command],
            env=dict(self.environment),
            cwd=working_directory or self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return SimpleNamespace(return_code=done.returncode, stdout=done.stdout, stderr=done.stderr)
