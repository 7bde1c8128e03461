"""`bazel build` and `bazel run` of a rehearsal: programs by what BUILD files say, nothing built.

What only a build can give is named in REHEARSAL_FILES: a path for each `$(rootpath …)`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).absolute().parents[3]


class _Made(list[Any]):
    """What a call gives; two of `select` may be joined by `|`."""

    def __or__(self, other: list[Any]) -> _Made:
        return self


class _Rules(dict[str, Any]):
    """The top level of a BUILD file: every unknown name is a rule, whose targets are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: dict[str, tuple[str, dict[str, Any]]] = {}

    def __missing__(self, rule: str) -> Any:
        def make(*_: Any, **values: Any) -> _Made:
            if "name" in values:
                self.targets[values["name"]] = rule, values
            return _Made()

        return make


def find_target(label: str) -> tuple[str, str, Mapping[str, Any]]:
    """Package, rule and attributes; of what an alias stands for.

    Raises:
        KeyError: there is none.
    """
    package, colon, name = label.removeprefix("//").partition(":")
    path = ROOT / package / "BUILD.bazel"
    rules = _Rules()
    exec(compile(path.read_text(encoding="utf-8"), path, "exec"), rules)  # noqa: S102 # ours
    rule, values = rules.targets[name if colon else package.rpartition("/")[2]]
    return find_target(values["actual"]) if rule == "alias" else (package, rule, values)


def program(label: str, files: Mapping[str, str]) -> list[str]:
    """Module and arguments that `bazel run` of a py_binary starts with."""
    package, rule, values = find_target(label)
    if rule != "py_binary":
        raise KeyError(f"{label} is a {rule}: a rehearsal runs programs in Python alone")
    main = values.get("main") or values["srcs"][0]
    arguments = [
        re.sub(r"\$\(rootpath (\S+?)\)", lambda found: files[found[1]], argument)
        for argument in values.get("args", ())
    ]
    return [f"{package.replace('/', '.')}.{main.removesuffix('.py')}", *arguments]


def main(words: Sequence[str]) -> NoReturn:
    own = words[: words.index("--")] if "--" in words else words
    command, *labels = (word for word in own if not word.startswith("-"))
    if command == "build":
        for label in labels:
            find_target(label)
        sys.exit(0)
    assert command == "run", command
    [label] = labels
    found = program(label, json.loads(os.environ["REHEARSAL_FILES"]))
    here = os.getcwd()
    os.environ |= {"BUILD_WORKSPACE_DIRECTORY": here, "BUILD_WORKING_DIRECTORY": here}
    os.chdir(ROOT)
    stand_ins = [sys.executable, "-c", os.environ["REHEARSAL_STAND_INS"]]
    os.execv(sys.executable, [*stand_ins, *found, *words[len(own) + 1 :]])  # noqa: S606 # ours


if __name__ == "__main__":
    main(sys.argv[1:])
