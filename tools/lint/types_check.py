"""Fails when mypy finds a fault in the given files, whose imports it follows into all packages.

What mypy has learnt of a file stays in Kiln's cache. A later run, of any clone on this machine,
looks only at what has changed since: where times or paths differ, mypy compares the contents.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from mypy import api

from tools.provision.cache import cache_root, lock, scratch


def main(files: Sequence[str]) -> int:
    with _cache(cache_root() / "mypy") as cache:
        # In this process: its sys.path leads to the packages that the test declares, and no other.
        found, trouble, code = api.run(
            ["--config-file=pyproject.toml", f"--cache-dir={cache}", "--show-error-context", *files]
        )
        sys.stdout.write(found)
        sys.stderr.write(trouble)
        if code not in (0, 1):
            raise SystemExit(code)
    return code


@contextmanager
def _cache(shared: Path) -> Iterator[Path]:
    """A copy of the shared one for this process alone, shared again when the block ends well.

    After a crash nothing is shared, in case the cache was its cause. Where none can be read or
    written, the check takes longer and says the same.
    """
    with TemporaryDirectory(dir=os.environ.get("TEST_TMPDIR"), prefix="mypy") as folder:
        own = Path(folder, "cache")
        with suppress(OSError), _lock(shared):
            shutil.copytree(shared, own)
        try:
            yield own
        except BaseException:
            shutil.rmtree(own, ignore_errors=True)
            raise
        finally:
            _share(own, shared)


def _share(own: Path, shared: Path) -> None:
    with suppress(OSError), _lock(shared), scratch(shared) as aside:
        shutil.rmtree(shared, ignore_errors=True)
        shutil.copytree(own, aside / "whole")
        (aside / "whole").rename(shared)


def _lock(shared: Path) -> AbstractContextManager[None]:
    return lock(shared.with_suffix(".lock"), "a type check")


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # to free all that mypy holds would take seconds
