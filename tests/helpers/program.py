"""Programs of ours in processes of their own that need not load torch and the like again.

An interpreter spends five to eight seconds on those imports, which is most of what a test of a
command would take. Here a process that has loaded them, and has done nothing else, forks itself for
every program; of our own modules it has loaded none but the one that imports Lightning.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import os
import pickle  # from this very file
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

# What programs of ml spend their start on; a test that does not declare one of them goes without.
_SLOW = (
    "torch",
    "common.lightning",
    "hydra",
    "onnx",
    "onnxscript",
    "onnxruntime.quantization",
    "matplotlib.figure",
    "sklearn.linear_model",
)
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)


class Program(subprocess.Popen[str]):
    """``python -m module arguments`` with pipes for its output, as text."""

    def __init__(self, module: str, *arguments: str, cwd: Path, env: Mapping[str, str]) -> None:
        super().__init__(
            [sys.executable, "-m", module, *arguments],
            cwd=cwd,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def finish(self, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """What came of it, when it has ended."""
        output, errors = self.communicate(timeout=timeout_s)
        return subprocess.CompletedProcess(self.args, self.returncode, output, errors)

    def _execute_child(self, args: list[str], *how: Any) -> None:
        if sys.platform != "linux":
            super()._execute_child(args, *how)  # type: ignore[misc]
            return
        cwd, env, pipes = how[4], how[5], how[9:15]
        _, _, _, output, _, errors = pipes
        connection, _ = _forker()
        request = pickle.dumps((args[2:], str(cwd), dict(env)))
        socket.send_fds(connection, [len(request).to_bytes(8, "big")], [output, errors])
        connection.sendall(request)
        self.pid = int.from_bytes(connection.recv(8), "big")
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


@cache
def _forker() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """The process that forks, which lives as long as this one, and a connection to it."""
    # Programs become children of this process when the one between has ended.
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    ours, theirs = socket.socketpair()
    path = os.pathsep.join(filter(None, sys.path))
    forker = subprocess.Popen(
        [sys.executable, "-P", __file__, str(theirs.fileno())],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    return ours, forker


def _serve(connection: socket.socket) -> None:
    for name in _SLOW:
        with suppress(ImportError):
            importlib.import_module(name)
    with suppress(ImportError):
        exporter = importlib.import_module("tests.helpers.exporter")
        exporter.warm()
    while True:
        head, pipes, *_ = socket.recv_fds(connection, 8, 2)
        if not head:
            return
        request = b""
        while len(request) < int.from_bytes(head, "big"):
            request += connection.recv(1 << 16)
        told, tell = os.pipe()
        between = os.fork()
        if between == 0:
            child = os.fork()
            if child == 0:
                try:
                    _become(*pickle.loads(request), *pipes)  # noqa: S301 # from this very file
                finally:
                    os._exit(70)  # not reached unless this file is broken
            os.write(tell, child.to_bytes(8, "big"))
            os._exit(0)
        os.waitpid(between, 0)
        connection.sendall(os.read(told, 8))
        for number in (told, tell, *pipes):
            os.close(number)


def _become(
    command: list[str], cwd: str, env: Mapping[str, str], output: int, errors: int
) -> NoReturn:
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.closerange(3, 4096)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[:] = env["PYTHONPATH"].split(os.pathsep) + sys.path
    atexit._clear()
    sys.argv = list(command)
    code = 0
    try:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    except SystemExit as exc:
        if isinstance(exc.code, str):
            print(exc.code, file=sys.stderr)
        code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except KeyboardInterrupt:
        traceback.print_exc()
        code = -signal.SIGINT
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
