"""Starts one of the programs behind the build's actions: a home of its own, readable errors.

    action.py ml.rules.fit_model --config ...

The program is imported only after its home is set, since packages look for theirs on import. It
has a `main(arguments)`, and in `REFUSALS` the errors that are about its input, not about itself.
"""

import importlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SUFFIX = ".progress"  # of the file beside the output that is being made; watch.py looks for it


@contextmanager
def shown_beside(output: Path) -> Iterator[None]:
    """Writes what this process prints to a file beside `output` at once, and out at the end.

    The file is none of the action's outputs: under a sandbox it disappears with the sandbox.
    """
    path = output.with_name(output.name + SUFFIX)
    sys.stdout.flush()
    terminal = os.dup(1)
    with path.open("w+b") as file:
        os.dup2(file.fileno(), 1)
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(line_buffering=True)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(terminal, 1)
            os.close(terminal)
            sys.stdout.write(path.read_text(encoding="utf-8", errors="replace"))
            sys.stdout.flush()
            path.unlink(missing_ok=True)


REFUSED = 1  # exit code: an input or a result that does not pass; the message says why


def main(arguments: Sequence[str]) -> int:
    """Runs the program that the first argument names."""
    name, *rest = arguments
    with tempfile.TemporaryDirectory(prefix="kiln-action-") as home:
        os.environ["HOME"] = os.environ["MPLCONFIGDIR"] = home
        program = importlib.import_module(name)
        try:
            program.main(rest)
        except program.REFUSALS as exc:
            print(explained(exc), file=sys.stderr)
            return REFUSED
    return 0


def explained(exc: BaseException) -> str:
    """The error and what caused it, which in Hydra's case says more."""
    causes = f"\n{explained(exc.__cause__)}" if exc.__cause__ else ""
    return f"{type(exc).__name__}: {exc}{causes}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
