"""Measures coverage of a test and the Python programs that it starts under `bazel coverage`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# Imported by every Python process that a test starts, through PYTHONPATH.
_SITE_HOOK = """\
import os, sys
if "COVERAGE_PROCESS_START" in os.environ:
    sys.path.append({site_packages!r})
    import coverage
    coverage.process_startup()
    sys.path.remove({site_packages!r})
"""

_SETTINGS = """\
[run]
branch = True
parallel = True
sigterm = True
concurrency = thread,multiprocessing
data_file = {scratch}/data
disable_warnings = no-data-collected,module-not-imported,not-measured
include =
{include}
"""


@contextmanager
def measured(root: Path, scratch: Path) -> Iterator[None]:
    """Measures the block if Bazel asked for coverage; otherwise does nothing.

    Args:
        root: the repository's root among the test's files.
        scratch: a folder exclusive to this test.
    """
    if os.environ.pop("COVERAGE", "0") != "1":
        yield
        return
    import coverage

    sources = _instrumented(root, Path(os.environ["COVERAGE_MANIFEST"]))
    scratch = scratch / "coverage"
    scratch.mkdir()
    settings = _write_settings(scratch, sources)
    _follow_children(scratch, settings, Path(coverage.__file__).parent.parent)
    measurement = coverage.Coverage(config_file=str(settings))
    measurement.start()
    try:
        yield
    finally:
        measurement.stop()
        measurement.save()
        _report(root, scratch, sources, Path(os.environ["COVERAGE_DIR"]) / "python.dat")


def _instrumented(root: Path, manifest: Path) -> dict[Path, str]:
    """Our sources by the target of their link in the test's tree, since coverage.py resolves
    links.
    """
    listed = manifest.read_text(encoding="utf-8").splitlines()
    sources = [name for name in listed if name.endswith(".py") and not name.startswith("external/")]
    return {(root / name).resolve(): name for name in sources if (root / name).exists()}


def _write_settings(scratch: Path, sources: Mapping[Path, str]) -> Path:
    settings = scratch / "coveragerc"
    include = "\n".join(f"    {real}" for real in sources) or "    nothing"
    settings.write_text(_SETTINGS.format(scratch=scratch, include=include), encoding="utf-8")
    return settings


def _follow_children(scratch: Path, settings: Path, site_packages: Path) -> None:
    hook = scratch / "hook" / "sitecustomize.py"
    hook.parent.mkdir()
    hook.write_text(_SITE_HOOK.format(site_packages=str(site_packages)), encoding="utf-8")
    # A child process that runs only this hook needs its parent's complete path.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(hook.parent), *filter(None, sys.path)])
    sys.path.insert(0, str(hook.parent))  # for children that inherit this process's path
    os.environ["COVERAGE_PROCESS_START"] = str(settings)


def _report(root: Path, scratch: Path, sources: Mapping[Path, str], target: Path) -> None:
    import coverage
    from coverage.exceptions import NoDataError

    combined = coverage.Coverage(
        data_file=str(scratch / "combined"), config_file=str(root / "pyproject.toml")
    )
    raw = scratch / "raw.lcov"
    try:
        combined.combine([str(path) for path in scratch.glob("data.*")])
        combined.lcov_report(outfile=str(raw), ignore_errors=True)
    except NoDataError:
        return  # the test runs none of our code; Bazel accepts an empty report
    lines = raw.read_text(encoding="utf-8").splitlines()
    target.write_text("\n".join(_named(line, sources) for line in lines) + "\n", encoding="utf-8")


def _named(record: str, sources: Mapping[Path, str]) -> str:
    """The record with its file's path in the repository."""
    if not record.startswith("SF:"):
        return record
    return f"SF:{sources[Path(record.removeprefix('SF:')).resolve()]}"
