"""Environment and ports of child processes, and the user's name."""

import getpass
import os
import socket
import sys


def python_environment() -> dict[str, str]:
    """Environment in which a child process imports the same modules, also under Bazel."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def free_port() -> int:
    """A TCP port that is free on the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def this_user() -> str:
    """KILN_ACTOR, GITHUB_ACTOR, or the login name."""
    if named := os.environ.get("KILN_ACTOR") or os.environ.get("GITHUB_ACTOR"):
        return named
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
