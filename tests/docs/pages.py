"""Pages as a reader follows them: files are written, commands are run."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"(?:#|//) (?P<path>mine/\S+)\n")
# What `bazel run` starts, as a module of Python: a test has no Bazel within Bazel.
_PROGRAMS = {
    "//ml:data": "ml.commands.data",
    "//ml:labels": "ml.labels.main",
    "//ml:registry": "ml.registry.main",
    "//ml:retrain": "ml.retrain.main",
    "//ml:train": "ml.commands.train",
    "//serve:api": "serve.server.server",
}
_RUN = re.compile(r"\./tools/bazel run (?P<target>//[\w/]*:\w+)(?P<rest>.*)")


@dataclass(frozen=True)
class Page:
    """Of documentation: the files that it has the reader write, and the lines to type."""

    files: dict[str, str]
    commands: list[str]


def read_page(path: Path) -> Page:
    """The blocks of a page; a file says its path in its first line."""
    files, commands = dict[str, str](), list[str]()
    for block in _BLOCK.finditer(path.read_text(encoding="utf-8")):
        named = _FILE.match(block["body"])
        if named:
            files[named["path"]] = block["body"]
        elif block["language"] == "sh":
            commands += block["body"].splitlines()
    return Page(files, commands)


def write_files(page: Page, folder: Path) -> None:
    """As the reader would."""
    for name, text in page.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def as_shell(command: str) -> str:
    """The line for a shell without Bazel: programs are started as modules, with our packages."""
    python = shlex.quote(sys.executable)
    found = _RUN.search(command)
    if found:
        rest = found["rest"].removeprefix(" --")
        module = _PROGRAMS[found["target"]]
        command = f"{command[: found.start()]}{python} -m {module}{rest}"
    else:
        command = re.sub(r"(^| )(\.venv/bin/python|python3) ", rf"\1{python} ", command)
    # Our packages, behind those of the reader.
    path = shlex.quote(":".join(filter(None, sys.path)))
    if "PYTHONPATH=" in command:
        return re.sub(r"PYTHONPATH=(\S+)", rf"PYTHONPATH=\1:{path}", command, count=1)
    return f"PYTHONPATH={path} {command}"
