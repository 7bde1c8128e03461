"""Repository rules of .bzl files, run without Bazel: as far as they go, Starlark is Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
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
