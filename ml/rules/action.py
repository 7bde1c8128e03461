"""Runs a build action's program with a private home folder and readable errors.

    action.py ml.rules.fit_model --config ...

The program is imported only after its home is set, since packages look theirs up on import. It has
a `main(arguments)`, and `REFUSALS`, the errors that are about its input.
"""

import importlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SUFFIX = ".progress"  # suffix of the progress file beside the output; watch.py looks for it


@contextmanager
def shown_beside(output: Path) -> Iterator[None]:
    """Copies this process's output to a file beside `output` as it appears, and to stdout at the
    end.

    The file is not an output of the action: it disappears with the sandbox.
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


# Exit codes: an input or a result is rejected, and the message says why; as in a shell, Ctrl-C.
REFUSED, INTERRUPTED = 1, 130


def main(arguments: Sequence[str]) -> int:
    name, *rest = arguments
    with tempfile.TemporaryDirectory(prefix="kiln-action-") as home:
        os.environ["HOME"] = os.environ["MPLCONFIGDIR"] = home
        program = importlib.import_module(name)
        try:
            program.main(rest)
        except program.REFUSALS as exc:
            print(explained(exc), file=sys.stderr)
            return REFUSED
        except KeyboardInterrupt:
            return INTERRUPTED
    return 0


def explained(exc: BaseException) -> str:
    """The error and its cause; the cause alone of an error that repeats it, as Hydra's do."""
    cause = exc.__cause__
    if cause is None:
        return f"{type(exc).__name__}: {exc}"
    own = [] if repr(cause) in str(exc) else [f"{type(exc).__name__}: {exc}"]
    return "\n".join([*own, explained(cause)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
