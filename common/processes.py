"""The environment and the ports of child processes, and who runs this one."""

import getpass
import os
import socket
import sys


def python_environment() -> dict[str, str]:
    """Environment in which a child finds the modules that this process finds, also under Bazel."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def free_port() -> int:
    """A TCP port of loopback that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def this_user() -> str:
    """KILN_ACTOR, GITHUB_ACTOR, or the user at this machine."""
    if named := os.environ.get("KILN_ACTOR") or os.environ.get("GITHUB_ACTOR"):
        return named
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
