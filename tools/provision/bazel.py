"""Bazel 7.7.1 out of Debian's packages, made to run from a folder on an older system.

Debian builds for its newest release and for files at their installed places. So every program gets
the folder's own loader and libraries, links and jar paths lead into the folder, and the server
learns its release number, which Debian's build leaves out.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tools.provision.apt import machine_mirrors, require_apt
from tools.provision.archive import Archive, Request
from tools.provision.cache import ProvisionError, cache_root, lock, say, staged
from tools.provision.trust import java_trust_store, machine_certificates
from tools.provision.unpack import make_links_relative, unpack

RELEASE = "7.7.1"
SUITES = ("forky", "sid")
PACKAGES = ("bazel-bootstrap", "bazel-rules-shell", "patchelf")
# What Bazel's packages ask for but its client and server never open: compilers, scripting
# languages, the JDK around the JRE, Maven.
WITHOUT = (
    *("*-jdk-headless", "default-jre-headless", "*maven*", "libmongodb-java"),
    *("gcc*", "cpp*", "g++*", "libgcc-*-dev", "libstdc++-*-dev", "libc6-dev", "libc-dev-bin"),
    *("linux-libc-dev", "build-essential", "dpkg-dev", "make", "patch", "zlib1g-dev"),
    *("binutils*", "libbinutils", "libctf*", "libgprofng0", "libsframe*", "libcc1-0", "libisl*"),
    *("libmpfr*", "libmpc*", "libgmp*", "lib*san[0-9]*", "libitm1", "libquadmath0", "libgomp1"),
    *("perl*", "libperl*", "libdpkg-perl", "python3*", "libpython3*", "node-*", "libjs-*"),
)
UNUSED_FOLDERS = tuple(
    f"usr/share/{name}"
    for name in ("bash-completion", "doc", "info", "lintian", "locale", "man", "perl5", "zoneinfo")
)
LIBRARIES = Path("usr/lib/x86_64-linux-gnu")
LOADER = LIBRARIES / "ld-linux-x86-64.so.2"
JAVA = Path("usr/lib/jvm/java-25-openjdk-amd64")
TRUST_STORE = Path("etc/ssl/certs/java/cacerts")
INSTALL_BASE = Path("usr/share/bazel")
CLASSPATH = INSTALL_BASE / "bazel_classpath_debian_depends.txt"
SERVER_JAR = INSTALL_BASE / "A-server.jar"
# Modules that Bazel's own tools need, as Debian packages them.
MODULES = {
    "bazel_features": "tools/features",
    "bazel_skylib": "tools/skylib",
    "platforms": "tools/platforms",
    "rules_cc": "rules/cc",
    "rules_java": "rules/java",
    "rules_license": "rules/license",
    "rules_proto": "rules/proto",
    "rules_shell": "rules/shell",
}
RC = "kiln.bazelrc"


def provision(target: Path) -> None:
    """Make ``target`` a folder that Bazel runs from; a complete one is left as it is."""
    with lock(target.with_name(f".{target.name}.lock"), f"provisioning Bazel {RELEASE}"):
        if target.is_dir():
            return
        if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
            raise ProvisionError("Debian's packages serve only Linux on x86-64")
        require_apt()
        say(f"provisioning Bazel {RELEASE} from Debian's packages into {target}")
        packages = _packages()
        with staged(target) as prefix:
            say("unpacking")
            unpack(packages, prefix)
            _adapt(prefix, target)
        say(f"Bazel {RELEASE} is ready")


def _packages() -> list[Path]:
    archive = Archive(cache_root() / "debian", machine_mirrors())
    refusals = []
    for suite in SUITES:
        request = Request(suite, PACKAGES, closure=True, without=WITHOUT)
        try:
            found = archive.resolve(request)
        except ProvisionError as error:
            refusals.append(str(error))
            continue
        version = next(deb.version for deb in found.debs if deb.package == PACKAGES[0])
        if version.startswith(RELEASE):
            return archive.files(request, f"fetching Bazel {RELEASE}")
        refusals.append(f"Debian {suite} has Bazel {version}")
    raise ProvisionError(f"no Bazel {RELEASE} among Debian's packages:\n" + "\n".join(refusals))


def _adapt(prefix: Path, target: Path) -> None:
    """Make what was unpacked at ``prefix`` run once it is at ``target``."""
    for folder in UNUSED_FOLDERS:
        shutil.rmtree(prefix / folder, ignore_errors=True)
    _write_trust_store(prefix)
    make_links_relative(prefix)
    _use_own_loader(prefix, target)
    _write_classpath(prefix, target)
    _label_release(prefix)
    _write_rc(prefix, target)


def _write_trust_store(prefix: Path) -> None:
    """On an installed system a maintainer script makes the file that Java's `cacerts` links to."""
    store = prefix / TRUST_STORE
    store.parent.mkdir(parents=True, exist_ok=True)
    store.write_bytes(java_trust_store(machine_certificates()))


def _use_own_loader(prefix: Path, target: Path) -> None:
    own, java = target / LIBRARIES, target / JAVA / "lib"
    options = ["--set-interpreter", str(target / LOADER)]
    options += ["--force-rpath", "--set-rpath", f"{own}:{java}:{java}/server"]
    patchelf = [str(prefix / LOADER), "--library-path", str(prefix / LIBRARIES)]
    patchelf += [str(prefix / "usr/bin/patchelf"), *options]
    for program in _programs(prefix):
        done = subprocess.run([*patchelf, str(program)], capture_output=True, text=True)
        if done.returncode:
            raise ProvisionError(f"cannot give {program.name} its own loader: {done.stderr}")


def _programs(prefix: Path) -> Iterator[Path]:
    yield prefix / "usr/bin/bazel"
    yield from (prefix / "usr/libexec/x86_64-linux-gnu/bazel").iterdir()
    yield from (prefix / JAVA / "bin").iterdir()
    yield prefix / JAVA / "lib/jspawnhelper"


def _write_classpath(prefix: Path, target: Path) -> None:
    """Debian lists most of the server's jars by absolute path, some it finds by luck: name all."""
    listed = (prefix / CLASSPATH).read_text().split()
    folder = prefix / "usr/share/java"
    jars = sorted(f"/{jar.relative_to(prefix)}" for jar in folder.glob("*.jar"))
    present = [jar for jar in dict.fromkeys(listed + jars) if (prefix / jar[1:]).exists()]
    (prefix / CLASSPATH).write_text("".join(f"{target}{jar}\n" for jar in present))


def _label_release(prefix: Path) -> None:
    """Without a label ``native.bazel_version`` is empty and rule sets take it for the newest."""
    with zipfile.ZipFile(prefix / SERVER_JAR, "a") as jar:
        jar.writestr("build-data.properties", f"build.label={RELEASE}\n")


def _write_rc(prefix: Path, target: Path) -> None:
    """What the client and the server must know of this folder, as a bazelrc."""
    missing = [name for name in MODULES if not (prefix / INSTALL_BASE / MODULES[name]).is_dir()]
    if missing:
        raise ProvisionError(f"Debian's packages lack the Bazel modules {', '.join(missing)}")
    lines = [
        f'startup --install_base="{target / INSTALL_BASE}" --trust_install_base',
        f'startup --server_javabase="{target / JAVA}"',
    ]
    for name, folder in MODULES.items():
        lines.append(f'common --override_module="{name}={target / INSTALL_BASE / folder}"')
    (prefix / RC).write_text("\n".join(lines) + "\n")
