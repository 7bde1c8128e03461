"""Runs functions in processes of their own, forked: they need no pickling and start at once."""

import os
import sys
import time
import traceback
from collections.abc import Callable

KILLED = 137


def start(function: Callable[[], None]) -> int:
    """The id of a process that runs the function and leaves with 0, or with 1 and a traceback."""
    child = os.fork()
    if child:
        return child
    try:
        function()
        os._exit(0)
    except BaseException:
        traceback.print_exc(file=sys.stderr)
    finally:
        os._exit(1)


def wait(child: int) -> int:
    """Its exit code; that of a process ended by a signal is 128 more than the signal."""
    status = os.waitpid(child, 0)[1]
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


class Barrier:
    """Holds processes until all have come; a file that each adds a byte to counts them."""

    def __init__(self, path: str, processes: int) -> None:
        self._path, self._processes, self._passed = path, processes, 0

    def wait(self, timeout_s: float = 60) -> None:
        """Comes back when every process has called it as often as this one."""
        self._passed += 1
        with open(self._path, "ab") as file:
            file.write(b".")
        end = time.monotonic() + timeout_s
        while os.path.getsize(self._path) < self._passed * self._processes:
            if time.monotonic() > end:
                raise TimeoutError("another process did not come to the barrier")
            time.sleep(0.0005)
