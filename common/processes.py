"""The environment of Python child processes that import this repository."""

import os
import sys


def python_environment() -> dict[str, str]:
    """Environment in which a child finds the modules that this process finds, also under Bazel."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
