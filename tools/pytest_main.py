"""Runs pytest as a Bazel test: implements Bazel's test protocol, passing pytest's options through.

https://bazel.build/reference/test-encyclopedia defines the protocol. pytest-bazel covers a part of
it and leaves sharding to an unmaintained plugin, so all of it is implemented here.
"""

from __future__ import annotations

import faulthandler
import importlib
import importlib.util
import logging
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn, TextIO
from unittest import mock

import pytest

ROOT = Path(__file__).absolute().parent.parent  # links stay unresolved: this is the test's own tree


class Protocol:
    """The protocol's part inside pytest: this shard's tests, and reproducible examples.

    Process-wide state is restored between files.
    """

    def __init__(self, shard: int, shards: int) -> None:
        self.shard, self.shards = shard, shards
        self.left_to_others = 0
        self.skipped_modules = 0

    def pytest_configure(self) -> None:
        if importlib.util.find_spec("hypothesis"):
            from hypothesis import HealthCheck, settings

            settings.register_profile(
                "bazel",
                derandomize=True,
                database=None,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],  # for a busy machine
            )
            settings.load_profile("bazel")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        mine = {item.nodeid for item in _dealt(items, self.shards)[self.shard]}
        others = [item for item in items if item.nodeid not in mine]
        self.left_to_others = len(others)
        if others:
            config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item.nodeid in mine]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        torn_down = yield
        if nextitem is None or nextitem.path != item.path:
            os.chdir(item.config.invocation_params.dir)
            _set_back()
        return torn_down

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.skipped_modules += report.skipped


def _dealt(items: Sequence[pytest.Item], shards: int) -> list[list[pytest.Item]]:
    """The tests of each shard.

    Files are not split, and the largest are assigned first, since each shard would repeat a file's
    set-up (services, training, export). With fewer files than shards, tests are distributed
    instead.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    if len(files) < shards:
        return [list(items[shard::shards]) for shard in range(shards)]
    dealt: list[list[pytest.Item]] = [[] for _ in range(shards)]
    for tests in sorted(files.values(), key=len, reverse=True):
        min(dealt, key=len).extend(tests)
    return dealt


def _set_back() -> None:
    """Restores process state that programs change when tests call them in this process."""
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    for handler in root.handlers[:]:
        if not type(handler).__module__.startswith("_pytest."):
            root.removeHandler(handler)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        torch.set_flush_denormal(False)
        torch.use_deterministic_algorithms(False)


def main(arguments: Sequence[str]) -> int:
    with TemporaryDirectory(dir=os.environ.get("TEST_TMPDIR"), prefix="t") as scratch:
        _isolate(Path(scratch))
        # Not where this runner's own tests run it.
        if "TEST_TARGET" in os.environ and "STARTS_NO_PROGRAMS" not in os.environ:
            _prepare()
        # Imported here: this file's own folder must not be searched for modules.
        from tools.coverage.measure import measured

        options = [*_bazel_options(Path(scratch)), *arguments]
        protocol = _protocol()
        with _exits_explained(), measured(ROOT, Path(scratch)):
            code = pytest.main(options, plugins=[protocol])
    if code == pytest.ExitCode.NO_TESTS_COLLECTED and _may_be_empty(protocol, options):
        return 0
    return int(code)


def _isolate(scratch: Path) -> None:
    """Hides the user's home, settings and caches."""
    own_folder = str(ROOT / "tools")
    sys.path[:] = [
        str(ROOT),
        *(entry for entry in sys.path if entry not in (own_folder, str(ROOT))),
    ]
    home = scratch / "home"
    home.mkdir()
    os.environ["HOME"] = str(home)
    for name in [name for name in os.environ if name.startswith("XDG_")]:
        del os.environ[name]


def _prepare() -> None:
    """Loads what programs need before pytest begins, if the tests start some."""
    with suppress(ModuleNotFoundError):
        importlib.import_module("tests.helpers.program").prepare()


def _bazel_options(scratch: Path) -> list[str]:
    options = [
        f"--rootdir={ROOT}",
        f"--config-file={ROOT / 'pyproject.toml'}",
        f"--basetemp={scratch / 'pytest'}",
    ]
    environ = os.environ
    # Otherwise pytest would import all installed plugins and their dependencies.
    environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    if importlib.util.find_spec("_hypothesis_pytestplugin"):
        options += ["-p", "_hypothesis_pytestplugin"]
    if report := environ.get("XML_OUTPUT_FILE"):
        suite = environ.get("TEST_TARGET", "pytest")
        options += [f"--junit-xml={report}", "--override-ini", f"junit_suite_name={suite}"]
    if wanted := environ.get("TESTBRIDGE_TEST_ONLY"):
        options += ["-k", wanted]
    if environ.get("TESTBRIDGE_TEST_RUNNER_FAIL_FAST") == "1":
        options.append("--exitfirst")
    return options


def _protocol() -> Protocol:
    if status := os.environ.get("TEST_SHARD_STATUS_FILE"):
        Path(status).touch()  # tells Bazel that this runner supports sharding
    shards = int(os.environ.get("TEST_TOTAL_SHARDS") or 1)
    return Protocol(int(os.environ.get("TEST_SHARD_INDEX") or 0), shards)


def _may_be_empty(protocol: Protocol, options: Sequence[str]) -> bool:
    """Whether having run no test is intended rather than a mistake."""
    filtered = any(option.startswith(("-k", "-m", "--deselect")) for option in options)
    return filtered or protocol.left_to_others > 0 or protocol.skipped_modules > 0


@contextmanager
def _exits_explained() -> Iterator[None]:
    """A test that exits the process fails, and a timeout prints where the test was."""
    with os.fdopen(os.dup(2), "w") as stderr:  # pytest captures descriptor 2 itself
        # Bazel ends a test that takes too long with SIGTERM.
        faulthandler.register(signal.SIGTERM, file=stderr, all_threads=True, chain=True)
        os.register_at_fork(after_in_child=lambda: faulthandler.unregister(signal.SIGTERM))
        with mock.patch.object(os, "_exit", _noticed_exit(stderr)):
            yield
        faulthandler.unregister(signal.SIGTERM)


def _noticed_exit(stderr: TextIO) -> Callable[[int], NoReturn]:
    """Bazel sees only the exit code: `os._exit(0)` amid the tests must not count as success."""
    own, leave = os.getpid(), os._exit

    def noticed(status: int) -> NoReturn:
        if os.getpid() == own:  # a forked child may exit this way
            print("A test left the process by os._exit", file=stderr, flush=True)
            leave(os.EX_SOFTWARE)
        leave(status)

    return noticed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
