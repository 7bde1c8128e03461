"""The model registry from a terminal or a script: ``bazel run //ml:registry -- --help``."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from common.terminal import Progress as Heartbeat
from common.terminal import terminal
from ml.registry.options import parser
from ml.registry.queries import Answer, Progress
from ml.registry.registry import Registry
from ml.registry.store import RegistryError

INTERRUPTED = 130  # exit code: as a shell's for Ctrl-C

_READING = {
    "list": "list_versions",
    "history": "history",
    "explain": "explain_reference",
    "pull": "pull",
    "verify": "verify",
}


def main(arguments: Sequence[str], console: Console, errors: Console) -> int:
    """Runs one command; returns its exit code."""
    options = parser().parse_args(arguments)
    try:
        with _progress(errors) as progress:
            registry = Registry.open(_location(options), getattr(options, "by", None))
            answer = _handler(options.command)(registry, options, progress)
    except RegistryError as exc:
        if options.json:
            answer = Answer(print, {"error": str(exc), "exit_code": exc.exit_code}, exc.exit_code)
        else:
            errors.print(f"[red]{escape(str(exc))}[/]", highlight=False, soft_wrap=True)
            return exc.exit_code
    except KeyboardInterrupt:
        errors.print("Interrupted: what had not been said to be done was not done.")
        return INTERRUPTED
    if options.json:
        console.file.write(json.dumps(answer.data, indent=2, ensure_ascii=False) + "\n")
    else:
        answer.show(console)
    return answer.exit_code


def _handler(command: str) -> Callable[[Registry, argparse.Namespace, Progress], Answer]:
    """Imports the function of a command on demand: the gates need onnxruntime, a list does not."""
    name = "queries" if command in _READING else "changes"
    module = importlib.import_module(f"ml.registry.{name}")
    handler: Callable[[Registry, argparse.Namespace, Progress], Answer] = getattr(
        module, _READING.get(command, command)
    )
    return handler


@contextmanager
def _progress(errors: Console) -> Iterator[Progress]:
    """One line that changes in a terminal, a line for each step elsewhere, and for a long step
    more of them; never among results."""
    with Heartbeat("reading the registry", console=errors) as heartbeat:

        def begin(text: str) -> None:
            heartbeat.begin(text)
            if not errors.is_terminal:
                errors.print(f"{text} ...", highlight=False, soft_wrap=True)

        yield begin


def _location(options: argparse.Namespace) -> str:
    workspace = os.environ.get("BUILD_WORKSPACE_DIRECTORY") or os.getcwd()
    default = str(Path(workspace, ".kiln", "registry"))
    return str(options.registry or os.environ.get("KILN_REGISTRY") or default)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal(140), terminal(140, stderr=True)))
