"""Runs onnxsim in a subprocess, because it may crash or hang (onnxsim#136, #117)."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import onnx

from common.programs import python_environment


class Simplified(NamedTuple):
    """The simplified model, or the original and the reason why it was kept."""

    model: onnx.ModelProto
    succeeded: bool
    note: str


def simplify(
    model: onnx.ModelProto, timeout_s: float = 120, command: Sequence[str] = (__file__,)
) -> Simplified:
    """Simplifies a model; on any failure it returns the original and a note.

    Args:
        command: Python arguments for the subprocess, followed by input and output file.
    """
    with tempfile.TemporaryDirectory(prefix="kiln-simplify-") as folder:
        before, after = Path(folder, "before.onnx"), Path(folder, "after.onnx")
        onnx.save(model, before)
        try:
            problem = _run([sys.executable, *command, str(before), str(after)], timeout_s)
            if not problem:
                return _simplified(model, onnx.load(after))
        except Exception as exc:  # a missing, truncated or invalid file
            problem = f"left no readable model ({type(exc).__name__}: {exc})"
    return Simplified(model, False, f"kept unsimplified: the simplifier {problem}")


def _simplified(before: onnx.ModelProto, after: onnx.ModelProto) -> Simplified:
    nodes = f"{len(before.graph.node)} -> {len(after.graph.node)} nodes"
    return Simplified(after, True, f"simplified: {nodes}")


def _run(command: Sequence[str], timeout_s: float) -> str:
    """Runs the subprocess; returns what went wrong, or ""."""
    try:
        child = subprocess.run(
            command, env=python_environment(), capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return f"took longer than {timeout_s:g} s"
    if child.returncode < 0:
        return f"crashed with signal {-child.returncode}"
    if child.returncode > 0:
        reason = (child.stderr.strip().splitlines() or ["no message"])[-1]
        return f"failed with exit code {child.returncode}: {reason}"
    return ""


def _main(before: str, after: str) -> None:
    sys.modules["torch"] = None  # type: ignore[assignment]  # onnxsim imports it, for seconds, in vain
    import onnxsim

    model = onnx.load(before)
    shape = [d.dim_value or 2 for d in model.graph.input[0].type.tensor_type.shape.dim]
    simple, same = onnxsim.simplify(
        model, check_n=2, test_input_shapes={model.graph.input[0].name: shape}
    )
    if not same:
        sys.exit("its own check found other outputs")
    onnx.save(simple, after)


if __name__ == "__main__":
    _main(*sys.argv[1:])
