"""Fill a folder with the packages of a lock and with BUILD files that offer them to Bazel.

The installation of a lock is made once on a machine, then linked into every clone's hub.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tools.offline.pypi_hub.build_files import render
from tools.offline.pypi_hub.distribution import (
    Distribution,
    HubError,
    LockError,
    evaluator,
    read_distributions,
    read_lock,
)
from tools.offline.pypi_hub.uv import find_uv
from tools.provision.cache import ProvisionError, cache_root, lock, say, staged

_PACKAGES = "site-packages"


def installation(lock_file: Path, cycles: Mapping[str, Sequence[str]], cache: Path) -> Path:
    """The hub's content for this lock and this interpreter, made below ``cache`` if need be.

    Raises:
        HubError: the lock cannot be installed, or its distributions do not fit together.
    """
    store = cache / "pypi" / _key(lock_file, cycles)
    with lock(cache / "locks" / f"pypi-{store.name}", "installing the Python packages"):
        if not store.is_dir():
            with staged(store) as aside:
                _make(lock_file, cycles, aside, cache)
    return store


def _key(lock_file: Path, cycles: Mapping[str, Sequence[str]]) -> str:
    digest = hashlib.sha256(lock_file.read_bytes())
    digest.update(json.dumps(cycles, sort_keys=True).encode())
    digest.update(f"{sys.version} {sysconfig.get_platform()} {platform.libc_ver()}".encode())
    for module in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(module.read_bytes())
    return digest.hexdigest()[:16]


def _make(lock_file: Path, cycles: Mapping[str, Sequence[str]], aside: Path, cache: Path) -> None:
    pins = read_lock(lock_file)
    packages = aside / _PACKAGES
    say(f"installing the {len(pins)} Python packages of {lock_file.name}")
    _install(find_uv(pins, cache), lock_file, packages, cache / "uv")
    distributions = read_distributions(packages, pins, evaluator(packages))
    sources = [source for found in distributions.values() for source in found.sources]
    say("compiling them")
    bytecode = _compile(packages, sources)
    kept = {f for d in distributions.values() for f in (*d.files, *d.headers)}
    _keep_only(packages, kept | set(bytecode.values()))
    if (packages / "bin").is_dir():
        (packages / "bin").rename(aside / "bin")
    _make_views(aside, distributions.values(), bytecode)
    for name, content in render(distributions, cycles, bytecode).items():
        path = aside / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


def _install(uv: Path, lock_file: Path, target: Path, uv_cache: Path) -> None:
    command = [str(uv), "pip", "sync", "--quiet", "--require-hashes", "--no-python-downloads"]
    # What an sdist is built with comes from the same lock, hashes and all.
    command += ["--build-constraints", str(lock_file), "--require-build-hashes"]
    command += ["--python", sys.executable, "--target", str(target), "--cache-dir", str(uv_cache)]
    command += ["--link-mode", "hardlink", *_index_options(), str(lock_file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=lock_file.parent)
    if done.returncode:
        raise HubError(f"uv could not install {lock_file.name}:\n{done.stderr.strip()}")


def _index_options() -> list[str]:
    """uv reads no pip configuration, where companies name their package index: pass that on."""
    if any(name in os.environ for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_CONFIG_FILE")):
        return []
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True
    )
    settings = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    for name in (":env:.index-url", "install.index-url", "global.index-url"):
        if name in settings:
            return ["--default-index", settings[name].strip("'\"")]
    return []


def _compile(packages: Path, sources: Iterable[str]) -> dict[str, str]:
    """Bytecode that Python takes without a look at the source's time: the same on every machine.

    Without it every sandboxed test would compile all of torch anew.
    """
    listing = "\n".join(str(packages / source) for source in sources)
    command = [sys.executable, "-m", "compileall", "-q", "-q", "-j", str(os.cpu_count() or 1)]
    command += ["-s", str(packages), "--invalidation-mode", "unchecked-hash", "-i", "-"]
    # Its exit status only says that some template or example is no Python of this version.
    subprocess.run(command, input=listing, text=True, stdout=subprocess.DEVNULL)
    compiled = {}
    for source in sources:
        folder, name = os.path.split(source)
        path = os.path.join(
            folder, "__pycache__", f"{name[:-3]}.{sys.implementation.cache_tag}.pyc"
        )
        if (packages / path).is_file():
            compiled[source] = path
    return compiled


def _keep_only(packages: Path, kept: set[str]) -> None:
    for folder, _, names in os.walk(packages, topdown=False):
        relative = os.path.relpath(folder, packages)
        for name in names:
            path = name if relative == "." else f"{relative}/{name}"
            if path not in kept:
                os.unlink(os.path.join(folder, name))
        if not os.listdir(folder):
            os.rmdir(folder)


def _make_views(
    store: Path, distributions: Iterable[Distribution], bytecode: Mapping[str, str]
) -> None:
    """A folder for each distribution, `views/NAME/site-packages`, with nothing else to import.

    Tools know by the folder's name what is not the user's own: Hypothesis would read all of torch
    for constants to try, a minute in each test process. A view links to whole folders of
    `site-packages` where they belong to this distribution alone, and to parts of them where
    several share a folder.
    """
    files = {
        each.name: [
            *each.sources,
            *each.data,
            *each.programs,
            *(bytecode[source] for source in each.sources if source in bytecode),
        ]
        for each in distributions
    }
    owners = Counter(
        part for paths in files.values() for part in {p for path in paths for p in _parts(path)}
    )
    for name, paths in files.items():
        for part in {next((p for p in _parts(path) if owners[p] == 1), path) for path in paths}:
            place = store / "views" / name / _PACKAGES / part
            place.parent.mkdir(parents=True, exist_ok=True)
            target = store / part if part.startswith("bin/") else store / _PACKAGES / part
            place.symlink_to(os.path.relpath(target, place.parent))


def _parts(path: str) -> Iterator[str]:
    """The path's folders, outermost first, and itself; of programs the file alone."""
    if not path.startswith("bin/"):
        yield from (str(folder) for folder in reversed(PurePosixPath(path).parents[:-1]))
    yield path


def link(store: Path, destination: Path) -> None:
    """Hard links to all of ``store`` in ``destination``, or copies between file systems."""
    place = os.link
    for folder, folders, names in os.walk(store):
        target = destination / os.path.relpath(folder, store)
        target.mkdir(parents=True, exist_ok=True)
        for name in (*folders, *names):
            source, copy = os.path.join(folder, name), os.path.join(target, name)
            if os.path.islink(source):
                os.symlink(os.readlink(source), copy)
                continue
            if os.path.isdir(source):
                continue
            try:
                place(source, copy)
            except OSError:
                place = shutil.copy2  # type: ignore[assignment]
                place(source, copy)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lock", type=Path, required=True, help="requirements with hashes")
    parser.add_argument("--cycles", type=json.loads, default={}, help="JSON: group to its members")
    parser.add_argument("--output", type=Path, required=True, help="the folder to fill")
    options = parser.parse_args()
    try:
        link(installation(options.lock.resolve(), options.cycles, cache_root()), options.output)
    except (HubError, LockError, ProvisionError) as error:
        print(f"kiln: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
