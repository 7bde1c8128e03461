"""What the recipe changes in the unpacked packages so that Bazel runs from a folder."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tools.provision import bazel
from tools.provision.cache import ProvisionError


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    folder = tmp_path / "aside"
    (folder / bazel.INSTALL_BASE).mkdir(parents=True)
    return folder


def test_a_complete_folder_is_left_as_it_is(tmp_path: Path) -> None:
    target = tmp_path / "7.7.1-x"
    target.mkdir()
    (target / "mine").write_text("mine")

    bazel.provision(target)

    assert (target / "mine").read_text() == "mine"


def test_a_failed_provisioning_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.deb"
    broken.write_text("no package")
    monkeypatch.setattr(bazel, "_packages", lambda: [broken])
    target = tmp_path / "bazel" / "7.7.1-x"

    with pytest.raises(ProvisionError, match=r"cannot unpack .*broken\.deb"):
        bazel.provision(target)

    assert [path.name for path in target.parent.iterdir()] == [".7.7.1-x.lock"]


@pytest.mark.parametrize("machine", [("Darwin", "arm64"), ("Linux", "aarch64")])
def test_other_machines_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: tuple[str, str]
) -> None:
    monkeypatch.setattr("platform.system", lambda: machine[0])
    monkeypatch.setattr("platform.machine", lambda: machine[1])

    with pytest.raises(ProvisionError, match="x86-64"):
        bazel.provision(tmp_path / "7.7.1-x")


def test_every_jar_is_on_the_class_path_once_and_missing_ones_are_not(prefix: Path) -> None:
    jars = prefix / "usr/share/java"
    jars.mkdir(parents=True)
    for name in ("listed.jar", "perfmark.jar"):
        (jars / name).touch()
    (jars / "dangling.jar").symlink_to("nowhere.jar")
    listed = "/usr/share/java/listed.jar\n/usr/share/java/gone.jar\n"
    (prefix / bazel.CLASSPATH).write_text(listed)

    bazel._write_classpath(prefix, Path("/cache/bazel"))

    assert (prefix / bazel.CLASSPATH).read_text().splitlines() == [
        "/cache/bazel/usr/share/java/listed.jar",
        "/cache/bazel/usr/share/java/perfmark.jar",
    ]


def test_the_server_learns_its_release(prefix: Path) -> None:
    with zipfile.ZipFile(prefix / bazel.SERVER_JAR, "w") as jar:
        jar.writestr("Server.class", b"")

    bazel._label_release(prefix)

    with zipfile.ZipFile(prefix / bazel.SERVER_JAR) as jar:
        assert jar.read("build-data.properties") == b"build.label=7.7.1\n"
        assert "Server.class" in jar.namelist()


def test_the_rc_names_the_final_place_of_every_module(prefix: Path) -> None:
    for folder in bazel.MODULES.values():
        (prefix / bazel.INSTALL_BASE / folder).mkdir(parents=True)

    bazel._write_rc(prefix, Path("/home/a b/cache"))

    text = (prefix / bazel.RC).read_text()
    assert str(prefix) not in text
    module = "/home/a b/cache/usr/share/bazel/rules/cc"
    assert f'common --override_module="rules_cc={module}"\n' in text
    assert text.count("--override_module") == len(bazel.MODULES)


def test_a_module_that_the_packages_lack_is_named(prefix: Path) -> None:
    for name, folder in bazel.MODULES.items():
        if name != "rules_shell":
            (prefix / bazel.INSTALL_BASE / folder).mkdir(parents=True)

    with pytest.raises(ProvisionError, match="rules_shell"):
        bazel._write_rc(prefix, Path("/cache"))
