"""Python 3.11 out of Debian 12's packages, run from a folder where the machine has another."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from tools.provision.apt import machine_mirrors, require_apt
from tools.provision.archive import Archive, Request
from tools.provision.cache import NotOfferedError, ProvisionError, cache_root, lock, say, staged
from tools.provision.unpack import make_links_relative, unpack

SUITE = "bookworm"
PACKAGES = ("python3.11-minimal", "libpython3.11-stdlib", "python3-pip", "patchelf")
# The C and C++ libraries stay the machine's, which what pip installs and compilers make is for;
# the rest belongs to Debian's own Python, or to scripts that run at its installation.
WITHOUT = (
    *("libc6", "libc-bin", "libcrypt1", "libgcc-s1", "libstdc++6", "gcc-*-base"),
    *("python3", "python3-minimal", "libpython3-stdlib", "python3-setuptools", "python3-wheel"),
    *("python3-pkg-resources", "python3-lib2to3", "media-types", "mime-support"),
    *("ca-certificates", "openssl", "debconf*", "perl*", "dpkg", "tar"),
)
C_LIBRARY = (2, 36)  # Debian 12's; a newer one serves as well
PYTHON = Path("usr/bin/python3.11")
# Relative to the program, so that the folder runs wherever it lies.
LIBRARIES = "$ORIGIN/../lib/x86_64-linux-gnu:$ORIGIN/../../lib/x86_64-linux-gnu"
MODULES = "bz2, ctypes, lzma, pip, readline, sqlite3, ssl, uuid, zlib"


def provision(target: Path) -> None:
    """Make ``target`` a folder that Python runs from; a complete one is left as it is."""
    with lock(target.with_name(f".{target.name}.lock"), "provisioning Python 3.11"):
        if target.is_dir():
            return
        _require_machine()
        say(f"provisioning Python 3.11 from Debian 12's packages into {target}")
        archive = Archive(cache_root() / "debian", machine_mirrors())
        request = Request(SUITE, PACKAGES, closure=True, without=WITHOUT)
        packages = archive.files(request, "fetching Python 3.11")
        with staged(target) as prefix:
            unpack(packages, prefix)
            shutil.rmtree(prefix / "usr/share", ignore_errors=True)
            make_links_relative(prefix)
            _use_own_libraries(prefix)
            _run([str(prefix / PYTHON), "-I", "-B", "-c", f"import {MODULES}"])
        say("Python 3.11 is ready")


def _require_machine() -> None:
    machine = (platform.system(), platform.machine())
    if machine != ("Linux", "x86_64"):
        raise NotOfferedError("Debian's packages serve only Linux on x86-64")
    name, version = platform.libc_ver()
    if name != "glibc" or tuple(map(int, version.split(".")[:2])) < C_LIBRARY:
        raise NotOfferedError(
            f"Debian 12's Python needs glibc {'.'.join(map(str, C_LIBRARY))} or later, "
            f"here is {name or 'another C library'} {version}".rstrip()
        )
    require_apt()


def _use_own_libraries(prefix: Path) -> None:
    """Also those that the standard library's modules open; children do not inherit this."""
    patchelf = str(prefix / "usr/bin/patchelf")
    _run([patchelf, "--force-rpath", "--set-rpath", LIBRARIES, str(prefix / PYTHON)])


def _run(command: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if "PYTHON" not in name}
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        raise ProvisionError(f"{Path(command[0]).name} failed: {done.stderr.strip()}")
