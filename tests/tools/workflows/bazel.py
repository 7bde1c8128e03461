"""`bazel build` and `bazel run` of a rehearsal: programs by what BUILD files say, nothing built.

What only a build can give is named in REHEARSAL_FILES: a path for each target that an option names.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from tests.tools.starlark import ROOT, Target, full_label, read_targets


def find_target(label: str) -> Target:
    """The target of a label; of an alias, the one that it stands for.

    Raises:
        KeyError: there is none.
    """
    label = full_label(label, "")
    package = label.removeprefix("//").partition(":")[0]
    target = read_targets(ROOT / package / "BUILD.bazel")[label]
    return find_target(target.attributes["actual"]) if target.kind == "alias" else target


def program(label: str, files: Mapping[str, str]) -> list[str]:
    """Module and arguments that `bazel run` of a py_binary starts with."""
    target = find_target(label)
    if target.kind != "py_binary":
        raise KeyError(f"{label} is a {target.kind}: a rehearsal runs programs in Python alone")
    named = target.attributes.get("files", {}).items()
    arguments = [f"{option}={files[label]}" for option, label in named]
    arguments += target.attributes.get("args", ())
    return [f"{target.package.replace('/', '.')}.{target.main.removesuffix('.py')}", *arguments]


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
