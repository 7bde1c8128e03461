"""The whole recipe over a small archive: real packages, a real loader, no network."""

from __future__ import annotations

import io
import platform
import shutil
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.apt_repository import MISSING, WHY_SKIPPED, AptRepository, Server, served, signer
from tools.provision import bazel, cache
from tools.provision.apt import Mirror, machine_mirrors
from tools.provision.cache import ProvisionError

LIBRARIES = Path("/") / bazel.LIBRARIES
HAS_LOADER = platform.machine() == "x86_64" and (LIBRARIES / "libc.so.6").exists()

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=WHY_SKIPPED),
    pytest.mark.skipif(not HAS_LOADER, reason=f"needs the C library in {LIBRARIES}: run on Debian"),
]


def server_jar() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as jar:
        jar.writestr("Server.class", b"")
    return packed.getvalue()


def add_bazel(repository: AptRepository, version: str, patchelf: str) -> None:
    """Packages of the real ones' shape; `true` stands for programs, so that the loader runs."""
    true = program("true")
    programs = [
        "usr/bin/bazel",
        "usr/libexec/x86_64-linux-gnu/bazel/process-wrapper",
        str(bazel.JAVA / "bin/java"),
        str(bazel.JAVA / "lib/jspawnhelper"),
    ]
    base: dict[str, str | bytes] = {
        **dict.fromkeys(programs, true),
        str(bazel.LOADER): (LIBRARIES / bazel.LOADER.name).read_bytes(),
        str(bazel.LIBRARIES / "libc.so.6"): (LIBRARIES / "libc.so.6").read_bytes(),
        str(bazel.SERVER_JAR): server_jar(),
        str(bazel.CLASSPATH): "/usr/share/java/guava.jar\n",
        "usr/share/java/guava.jar": "",
        "usr/share/doc/bazel/copyright": "Apache-2.0",
    }
    for folder in bazel.MODULES.values():
        base[str(bazel.INSTALL_BASE / folder / "MODULE.bazel")] = ""
    needs = "gcc-small, libjsr-java"
    repository.add("bazel-bootstrap", base, depends=needs, version=version)
    repository.add("gcc-small", {"usr/bin/gcc": "a compiler"})
    repository.add("libjsr-java", {"usr/share/java/jsr.jar": ""})
    repository.add("bazel-rules-shell", {"usr/share/rules": ""})
    repository.add("patchelf", {"usr/bin/patchelf": program(patchelf)})


def program(name: str) -> bytes:
    found = shutil.which(name)
    assert found, name
    return Path(found).read_bytes()


@pytest.fixture
def patchelf() -> str:
    """The program that stands for patchelf."""
    return "true"


@pytest.fixture
def archive(tmp_path: Path, patchelf: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Two suites: the first has another Bazel, the second the right one."""
    monkeypatch.setenv("KILN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bazel, "SUITES", ("old", "new"))
    folder = tmp_path / "archive"
    with signer() as key, served(AptRepository(folder)) as server:
        for suite, version in (("old", "7.6.0+ds-1"), ("new", "7.7.1+ds-8")):
            repository = AptRepository(folder, suite)
            add_bazel(repository, version, patchelf)
            repository.publish(key)
        monkeypatch.setattr(bazel, "machine_mirrors", lambda: [Mirror(server.url, key.keyring)])
        yield server


def test_the_suite_with_the_right_release_becomes_a_complete_folder(
    archive: Server, tmp_path: Path
) -> None:
    target = tmp_path / "cache/bazel/7.7.1-x"

    bazel.provision(target)

    assert "bazel-bootstrap_7.7.1%2bds-8_all.deb" in " ".join(archive.fetched_packages())
    assert str(target) in (target / bazel.RC).read_text()
    assert (target / bazel.CLASSPATH).read_text().splitlines() == [
        f"{target}/usr/share/java/guava.jar",
        f"{target}/usr/share/java/jsr.jar",
    ]
    assert (target / bazel.TRUST_STORE).read_bytes()[:4] == b"\xfe\xed\xfe\xed"
    assert not (target / "usr/bin/gcc").exists()
    assert not (target / "usr/share/doc").exists()


def test_no_suite_with_the_release_is_an_error_that_lists_what_there_is(
    archive: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bazel, "SUITES", ("old",))

    with pytest.raises(ProvisionError, match=r"Debian old has Bazel 7\.6\.0\+ds-1"):
        bazel.provision(tmp_path / "cache/bazel/7.7.1-x")


@pytest.mark.parametrize("patchelf", ["false"])
def test_a_program_that_cannot_be_patched_is_named_and_nothing_stays(
    archive: Server, tmp_path: Path
) -> None:
    target = tmp_path / "cache/bazel/7.7.1-x"

    with pytest.raises(ProvisionError, match="bazel"):
        bazel.provision(target)

    assert [path.name for path in target.parent.iterdir()] == [".7.7.1-x.lock"]


def test_two_at_once_provision_once(
    archive: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "cache/bazel/7.7.1-x"
    said: list[
        str
    ] = []  # not by capsys, whose reading can lose what another thread writes meanwhile
    for module in (bazel, cache):
        monkeypatch.setattr(module, "say", said.append)
    archive.gate.clear()
    threads = [threading.Thread(target=bazel.provision, args=(target,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    while not any("waiting for it" in line for line in said):
        assert all(thread.is_alive() for thread in threads)
        time.sleep(0.05)
    archive.gate.set()
    for thread in threads:
        thread.join(60)

    seen = "\n".join(said)
    assert seen.count("is ready") == 1
    assert seen.count("provisioning Bazel 7.7.1 is already under way") == 1
    assert len(archive.fetched_packages()) == len(set(archive.fetched_packages()))


def test_the_machines_own_apt_names_its_mirrors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = tmp_path / "sources.list"
    sources.write_text(
        "deb http://other.example.org/node current main\n"
        "deb http://mirror.example.org/debian stable main\n"
    )
    configuration = tmp_path / "apt.conf"
    configuration.write_text(
        f'Dir::Etc::sourcelist "{sources}";\nDir::Etc::sourceparts "/dev/null";\n'
        f'Dir::State::lists "{tmp_path}";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(configuration))

    assert [mirror.site for mirror in machine_mirrors()] == [
        "http://mirror.example.org/debian",
        "http://other.example.org/node",
    ]
