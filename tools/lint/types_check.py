"""Fails if mypy finds an error in the given files, following imports into all packages.

mypy's cache is kept in Kiln's cache folder, shared by all clones on this machine, so later runs
check only what changed: where times or paths differ, mypy compares contents.
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
        # In this process: its sys.path has exactly the packages that the test declares.
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
    """A private copy of the shared cache, published if the block succeeds.

    After a crash nothing is published, in case the cache caused it. Without a usable cache
    the check is slower, with the same result.
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
    os._exit(exit_code)  # freeing mypy's memory would take seconds
