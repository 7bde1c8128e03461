"""Programs of ours in processes of their own that need not load torch and the like again.

An interpreter spends five to eight seconds on those imports, which is most of what a test of a
command would take. Here a process that has loaded them, and has done nothing else, forks itself for
every program; of our own modules it has loaded none but the one that imports Lightning. Under Bazel
it is a fork of the test before pytest begins, so that both load them once; otherwise it is started
with the first program.

A test starts one as a `Program`; a shell, or another program that starts programs, by the words of
`in_shell`, which run this file without packages: it passes its descriptors, environment and signals
on, and ends as the program does. What a program itself starts by ``sys.executable -m`` is forked in
the same way, as a sweep's workers and the ranks of a training are.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import os
import pickle  # from this very file
import runpy
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NoReturn

# What programs of ml spend their start on; a test that does not declare one of them goes without.
_SLOW = (
    "torch",
    "torch.export._trace",
    "common.lightning",
    "s3fs",  # Lightning asks of each file system whether it is this one's
    "hydra",
    "onnx",
    "onnxscript",
    "onnxruntime.quantization",
    "onnxsim",
    "matplotlib.figure",
    "sklearn.linear_model",
)
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
_PYTHON = """\
#!/bin/sh
if [ "$1$2" = -u-m ]; then
    shift
fi
if [ "$1" = -m ]; then
    shift
    exec {here} "$@"
fi
exec {python} "$@"
"""


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
        _request(connection, [output, errors], args[2:], cwd, env)
        self.pid = int.from_bytes(connection.recv(8), "big")
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def in_shell(module: str) -> str:
    """``python -m module``, to be followed by arguments."""
    return shlex.join([stand_in(), "-m", module])


def stand_in() -> str:
    """A program to set ``sys.executable`` to: what is started by it with -m is forked."""
    _, folder = _forker()
    return f"{folder}/python"


def prepare() -> None:
    """Loads the packages here, while there are neither tests nor threads, and forks the forker."""
    if sys.platform == "linux":  # elsewhere a `Program` is started anew
        _load()
        _forkers.append(_open_forker(fork=True))


_Forker = tuple[socket.socket, str]
_forkers: list[_Forker] = []
_spawned: list[subprocess.Popen[bytes]] = []  # kept, since a forgotten one warns


def _forker() -> _Forker:
    """A connection to the process that forks, which lives as long as this one, and a folder with
    the socket at which it listens for others, and a stand-in for Python that asks there."""
    if not _forkers:
        _forkers.append(_open_forker(fork=False))
    return _forkers[0]


def _open_forker(*, fork: bool) -> _Forker:
    # Programs become children of this process when the one between has ended.
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    ours, theirs = socket.socketpair()
    folder = mkdtemp(prefix="fork", dir="/tmp")  # a socket's name has at most 107 bytes
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    door, python = f"{folder}/door", Path(folder, "python")
    here = shlex.join([sys.executable, "-I", "-S", str(Path(__file__).absolute()), door])
    python.write_text(_PYTHON.format(here=here, python=shlex.quote(sys.executable)))
    python.chmod(0o755)
    with theirs, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(door)
        listening.listen()
        if not fork:
            _spawn(folder, theirs.fileno(), listening.fileno())
        elif os.fork() == 0:
            ours.close()
            _serve(folder, theirs, listening)
    return ours, folder


def _spawn(folder: str, *sockets: int) -> None:
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-P", __file__, folder, *map(str, sockets)]
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    _spawned.append(subprocess.Popen(command, env=env, pass_fds=sockets))


def _request(
    connection: socket.socket,
    descriptors: list[int],
    command: list[str],
    cwd: object,
    env: Mapping[str, str],
) -> None:
    request = pickle.dumps((command, str(cwd), dict(env)))
    socket.send_fds(connection, [len(request).to_bytes(8, "big")], descriptors)
    connection.sendall(request)


def _load() -> None:
    for name in _SLOW:
        with suppress(ImportError):
            importlib.import_module(name)
    with suppress(ImportError):
        exporter = importlib.import_module("tests.helpers.exporter")
        exporter.warm()


def _serve(folder: str, connection: socket.socket, door: socket.socket) -> NoReturn:
    sys.executable = f"{folder}/python"
    while True:
        readable, _, _ = select.select([connection, door], [], [])
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if door in readable:
            visitor, _ = door.accept()
            if os.fork() == 0:
                os._exit(_attend(visitor))
            visitor.close()
        if connection in readable:
            head, pipes, *_ = socket.recv_fds(connection, 8, 2)
            if not head:
                os._exit(0)
            request = _rest(connection, head)
            told, tell = os.pipe()
            between = os.fork()
            if between == 0:
                os.write(tell, _start(request, [-1, *pipes]).to_bytes(8, "big"))
                os._exit(0)
            os.waitpid(between, 0)
            connection.sendall(os.read(told, 8))
            for number in (told, tell, *pipes):
                os.close(number)


def _rest(connection: socket.socket, head: bytes) -> bytes:
    request = b""
    while len(request) < int.from_bytes(head, "big"):
        request += connection.recv(1 << 16)
    return request


def _start(request: bytes, descriptors: list[int]) -> int:
    """The process of a program."""
    child = os.fork()
    if child == 0:
        try:
            command, cwd, env = pickle.loads(request)  # noqa: S301 # from this very file
            _become(command, cwd, env, descriptors)
        finally:
            os._exit(70)  # not reached unless this file is broken
    return child


def _attend(visitor: socket.socket) -> int:
    """Runs the program that a shell asks for, and ends it where the one who asked is gone."""
    head, descriptors, *_ = socket.recv_fds(visitor, 8, 3)
    child = _start(_rest(visitor, head), descriptors)
    ended = os.pidfd_open(child)
    poll = select.poll()
    poll.register(visitor, select.POLLIN)
    poll.register(ended, select.POLLIN)
    while ended not in dict(poll.poll()):
        number = visitor.recv(1)
        os.kill(child, number[0] if number else signal.SIGKILL)
        if not number:
            break
    _, status = os.waitpid(child, 0)
    with suppress(OSError):
        visitor.sendall((os.waitstatus_to_exitcode(status) & 0xFFFF).to_bytes(2, "big"))
    return 0


def _ask(door: str, *command: str) -> NoReturn:
    """Stands for the program in the shell that started it."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(door)

        def pass_on(number: int, _: object) -> None:
            connection.sendall(bytes([number]))

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, pass_on)
        _request(connection, [0, 1, 2], list(command), os.getcwd(), os.environ)
        code = int.from_bytes(connection.recv(2), "big")
    if code > 0xFF:  # by a signal
        signal.signal(0x10000 - code, signal.SIG_DFL)
        os.kill(os.getpid(), 0x10000 - code)
    os._exit(code)


def _become(
    command: list[str], cwd: str, env: Mapping[str, str], descriptors: list[int]
) -> NoReturn:
    for number, descriptor in enumerate(descriptors):
        if descriptor >= 0:
            os.dup2(descriptor, number)
    os.closerange(3, 4096)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[:] = env["PYTHONPATH"].split(os.pathsep) + sys.path
    atexit._clear()
    if "COVERAGE_PROCESS_START" in env:
        sys.modules.pop("sitecustomize", None)
        importlib.import_module("sitecustomize")  # of tools/coverage/measure.py
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
    if sys.argv[2].isdigit():
        _load()
        _serve(sys.argv[1], *(socket.socket(fileno=int(number)) for number in sys.argv[2:]))
    else:
        _ask(*sys.argv[1:])
