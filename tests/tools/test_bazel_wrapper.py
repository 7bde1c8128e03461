"""Which Bazel `tools/bazel` chooses, and what it hands over."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.tools.apt_repository import MISSING, WHY_SKIPPED, apt_config, ubuntu
from tests.tools.workspace import PATH, VERSION, Workspace
from tools.provision import wrapper


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_under_bazelisk_it_only_passes_the_usual_version_through(workspace: Workspace) -> None:
    real = workspace.fake("real", folder=workspace.home / "downloads")

    code, out, _ = workspace.run("run", "//a:b", "--", "a  b", "", "*", BAZEL_REAL=str(real))

    assert code == 7
    assert out.startswith("this is real\n<run>\n<//a:b>\n<-->\n<a  b>\n<>\n<*>\n")


@pytest.mark.parametrize(
    ("release", "major"),
    [
        (VERSION, None),
        ("7.99.0", None),
        ("8.6.0", 8),
        ("9.1.1", 9),
        ("9.2.0rc1", 9),
        ("no_version", None),  # built from a commit
    ],
)
def test_another_major_version_gets_its_own_flags_in_place_of_the_usual_ones(
    workspace: Workspace, release: str, major: int | None
) -> None:
    real = workspace.fake("real", version=release, folder=workspace.home / "downloads")

    code, out, _ = workspace.run("--batch", "info", BAZEL_REAL=str(real))

    rc = f"<--bazelrc={workspace.root}/tools/bazelrc/{major}.bazelrc>"
    added = ["<--noworkspace_rc>", rc] if major else []
    assert code == 7
    assert out.splitlines()[: len(added) + 2] == ["this is real", *added, "<--batch>"]


def test_the_version_of_another_bazel_is_asked_for_without_flags(workspace: Workspace) -> None:
    real = workspace.fake("real", version="9.1.1", folder=workspace.home / "downloads")

    assert workspace.run("--version", BAZEL_REAL=str(real)) == (0, "bazel 9.1.1\n", "")


def test_another_version_than_the_usual_one_only_bazelisk_serves(workspace: Workspace) -> None:
    workspace.fake("bazel")
    workspace.provisioned()

    code, out, error = workspace.run("info", USE_BAZEL_VERSION="9.x")
    assert (code, out) == (1, "")
    assert "'9.x'" in error
    assert "install Bazelisk" in error

    assert workspace.run("info", USE_BAZEL_VERSION=VERSION)[1].startswith("this is bazel\n")
    workspace.fake("bazelisk")
    assert workspace.run("info", USE_BAZEL_VERSION="9.x")[1].startswith("this is bazelisk\n")


@pytest.mark.parametrize("world", ["", "online"])
def test_bazelisk_on_the_path_serves_any_version(workspace: Workspace, world: str) -> None:
    workspace.fake("bazelisk", version="0.0.0")

    code, out, _ = workspace.run("test", "//...", KILN_BAZEL=world)

    assert code == 7
    assert out.startswith("this is bazelisk\n<test>\n<//...>\n")


def test_bazelisk_that_is_called_bazel_is_not_asked_for_its_version(workspace: Workspace) -> None:
    real = workspace.fake("bazelisk", version="0.0.0", folder=workspace.home / "brew")
    (workspace.bin / "bazel").symlink_to(real)

    assert workspace.run("info")[1].startswith("this is bazelisk\n<info>\n")


def test_a_bazel_of_the_right_version_is_used_as_it_is(workspace: Workspace) -> None:
    workspace.fake("bazel")

    assert workspace.run("info")[1].startswith("this is bazel\n<info>\n")


def test_a_bazel_of_another_version_is_passed_over(workspace: Workspace) -> None:
    workspace.fake("bazel", version=f"{VERSION}0")
    workspace.provisioned()

    assert "this is provisioned" in workspace.run("info")[1]


def test_a_later_bazel_on_the_path_counts_when_the_first_is_of_another_version(
    workspace: Workspace,
) -> None:
    workspace.fake("bazel", version="6.0.0")
    later = workspace.fake("bazel", folder=workspace.home / "later")

    out = workspace.run("info", PATH=f"{workspace.bin}:{later.parent}")[1]

    assert out.startswith("this is bazel\n<info>\n")


def test_offline_ignores_what_is_on_the_path(workspace: Workspace) -> None:
    workspace.fake("bazelisk")
    workspace.provisioned()

    assert "this is provisioned" in workspace.run("info", KILN_BAZEL="offline")[1]


def test_online_without_a_bazel_is_an_error_that_says_what_to_install(workspace: Workspace) -> None:
    workspace.provisioned()

    code, out, error = workspace.run("info", KILN_BAZEL="online")

    assert (code, out) == (1, "")
    assert {"bazelisk", VERSION} <= set(re.findall(r"[\w.]+", error))


def test_an_unknown_world_is_an_error_that_names_the_choices(workspace: Workspace) -> None:
    code, _, error = workspace.run("info", KILN_BAZEL="ofline")

    assert code == 1
    assert {"ofline", "offline", "online"} <= set(re.findall(r"\w+", error))


def test_without_any_source_of_bazel_it_says_what_to_install(workspace: Workspace) -> None:
    code, _, error = workspace.run("info")  # no apt-get on this PATH either

    assert code == 1
    assert "install Bazelisk" in error
    assert "Traceback" not in error
    assert not list((workspace.cache / "bazel").glob("7*"))


def test_a_cache_that_cannot_be_written_to_is_told_in_one_line(workspace: Workspace) -> None:
    workspace.cache.write_text("a file where a folder would be")

    code, out, error = workspace.run("info")

    assert (code, out) == (1, "")
    assert len(error.splitlines()) == 1
    assert str(workspace.cache) in error
    assert "KILN_CACHE" in error


def test_a_version_that_the_recipe_cannot_make_is_refused(workspace: Workspace) -> None:
    (workspace.root / ".bazelversion").write_text("6.5.0\n")

    code, _, error = workspace.run("info")

    assert code == 1
    assert {".bazelversion", "6.5.0"} <= set(re.findall(r"[\w.]+", error))


def test_the_wrapper_itself_on_the_path_is_no_bazel(workspace: Workspace) -> None:
    (workspace.bin / "bazel").symlink_to(workspace.root / "tools/bazel")
    workspace.provisioned()

    code, out, _ = workspace.run("info", program=str(workspace.bin / "bazel"))

    assert code == 7
    assert "this is provisioned" in out


def test_the_wrapper_of_another_clone_on_the_path_is_no_bazel(
    workspace: Workspace, tmp_path: Path
) -> None:
    other = Workspace(tmp_path / "other")
    (workspace.bin / "bazel").symlink_to(other.root / "tools/bazel")
    workspace.provisioned()

    assert "this is provisioned" in workspace.run("info")[1]


def test_the_provisioned_bazel_gets_its_settings_before_the_arguments(workspace: Workspace) -> None:
    prefix = workspace.provisioned().parents[2]

    code, out, _ = workspace.run("run", "//a:b", "--", "a  b", "")

    assert code == 7
    lines = out.splitlines()
    assert lines[1:3] == [
        f"<--bazelrc={prefix}/kiln.bazelrc>",
        f"<--bazelrc={workspace.root}/tools/offline/offline.bazelrc>",
    ]
    start = lines.index("<run>")
    assert lines[start : start + 5] == ["<run>", "<//a:b>", "<-->", "<a  b>", "<>"]


def test_the_provisioned_bazel_learns_the_real_python(workspace: Workspace) -> None:
    workspace.provisioned()
    out = workspace.run("info")[1]

    (line,) = (line for line in out.splitlines() if line.startswith("python="))
    assert line == f"python={Path(sys._base_executable).resolve()}"  # type: ignore[attr-defined]


def test_a_shim_that_prepends_to_the_path_leaves_no_trace(workspace: Workspace) -> None:
    shim = f'#!/bin/sh\nPATH=/shim:$PATH\nexport PATH\nexec "{sys.executable}" "$@"\n'
    workspace.script("python3", shim)
    workspace.provisioned()

    assert f"path={workspace.bin}\n" in workspace.run("info")[1]


def test_a_later_start_takes_the_python_that_is_known(workspace: Workspace) -> None:
    workspace.provisioned()
    first = workspace.run("info")[1]
    workspace.script("python3", "#!/bin/sh\nexit 99\n")

    assert workspace.run("info") == (7, first, "")


def test_a_known_python_that_is_gone_is_looked_for_again(workspace: Workspace) -> None:
    workspace.provisioned()
    (workspace.cache / "bazel/python3.11").symlink_to(workspace.home / "gone")

    code, out, _ = workspace.run("info")

    assert code == 7
    assert f"python={Path(sys._base_executable).resolve()}" in out  # type: ignore[attr-defined]
    assert (workspace.cache / "bazel/python3.11").exists()


def test_a_chosen_python_is_not_remembered(workspace: Workspace) -> None:
    workspace.provisioned()
    real = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]

    assert workspace.run("info", KILN_PYTHON=str(real))[0] == 7
    assert not (workspace.cache / "bazel/python3.11").is_symlink()


def test_a_python_of_another_version_is_refused_by_its_name(workspace: Workspace) -> None:
    workspace.provisioned()
    other = workspace.script("python3.12", '#!/bin/sh\necho "3 12"\necho "$0"\n')

    code, _, error = workspace.run("info", KILN_PYTHON=str(other))

    assert code == 1
    assert {"KILN_PYTHON", str(other)} <= set(re.findall(r"[\w./-]+", error))


def test_signals_that_python_ignores_reach_what_bazel_runs(workspace: Workspace) -> None:
    bazel = workspace.provisioned()
    workspace.program("grep")
    workspace.script("bazel", "#!/bin/sh\ngrep SigIgn /proc/self/status\n", bazel.parent)

    ignored = int(workspace.run("info")[1].split()[1], 16)

    sigpipe_and_sigxfsz = 1 << 12 | 1 << 24
    assert ignored & sigpipe_and_sigxfsz == 0


@pytest.mark.parametrize(
    ("folder", "is_below"), [("/tmp/clone", True), ("/home/me/clone", False), ("/tmpfs/c", False)]
)
def test_only_below_tmp_the_sandbox_shares_tmp(
    monkeypatch: pytest.MonkeyPatch, folder: str, is_below: bool
) -> None:
    monkeypatch.setattr(os, "getcwd", lambda: folder)
    monkeypatch.setattr(wrapper, "WORKSPACE", folder)

    options = wrapper.startup_options("/home/me/.cache/kiln/bazel/x", ["/home/me/.cache/kiln"])

    assert (f"--bazelrc={wrapper.BELOW_TMP_RC}" in options) is is_below


# --- the same decisions inside this process, where coverage sees them --------------------------


class Executed(Exception):
    """What would have replaced this process."""

    def __init__(self, program: str, command: list[str]) -> None:
        super().__init__(program)
        self.program = program
        self.command = command


@pytest.fixture
def here(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    def execv(program: str, command: list[str]) -> None:
        raise Executed(program, command)

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(wrapper, "WORKSPACE", str(workspace.root))
    for name in ("KILN_BAZEL", "KILN_PYTHON", "USE_BAZEL_VERSION"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("PATH", "/shim")
    monkeypatch.setenv("KILN_CALLER_PATH", str(workspace.bin))
    monkeypatch.setenv("KILN_CACHE", str(workspace.cache))
    return workspace


@pytest.mark.parametrize("name", ["bazelisk", "bazel"])
def test_what_is_on_the_path_replaces_the_wrapper(here: Workspace, name: str) -> None:
    found = here.fake(name)

    with pytest.raises(Executed) as replaced:
        wrapper.main(["run", "a b"])

    assert replaced.value.command == [str(found), "run", "a b"]


def test_the_provisioned_bazel_replaces_the_wrapper(here: Workspace) -> None:
    here.fake("bazel", version="0.0.0")
    bazel = here.provisioned()

    with pytest.raises(Executed) as replaced:
        wrapper.main(["run", "a b"])

    assert replaced.value.program == str(bazel)
    assert replaced.value.command[-2:] == ["run", "a b"]
    assert os.environ["KILN_PYTHON"] == os.path.realpath(sys._base_executable)  # type: ignore[attr-defined]


def test_a_cache_that_is_read_only_serves_what_it_has(
    here: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    bazel = here.provisioned()

    def symlink(target: str, link: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system", link)

    monkeypatch.setattr(os, "symlink", symlink)
    with pytest.raises(Executed) as replaced:
        wrapper.main(["info"])

    assert replaced.value.program == str(bazel)


@pytest.mark.parametrize("world", ["online", "onlin"])
def test_a_world_that_cannot_be_had_is_an_error(
    here: Workspace,
    world: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KILN_BAZEL", world)

    assert wrapper.main(["info"]) == 1
    assert f"KILN_BAZEL{'=' if world == 'online' else ' is '}" in capsys.readouterr().err


def test_what_cannot_be_provisioned_is_an_error(
    here: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wrapper.main(["info"]) == 1
    assert VERSION in capsys.readouterr().err.split()


@pytest.mark.skipif(bool(MISSING), reason=WHY_SKIPPED)
def test_on_ubuntu_one_line_says_what_to_install(
    here: Workspace, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("apt-get", "apt-config", "dpkg-deb"):
        here.program(name)
    monkeypatch.setenv("PATH", PATH)
    with ubuntu(here.home) as sources:
        monkeypatch.setenv("APT_CONFIG", str(apt_config(here.home, sources)))
        code = wrapper.main(["info"])
        monkeypatch.setenv("PATH", PATH)  # main has set the caller's, without gpg

    said = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
    assert (code, len(said)) == (1, 1)
    assert wrapper.INSTALL_ONLINE in said[0]
    details = here.cache / "bazel/why-not.txt"
    assert str(details) in said[0]
    assert "does not have a Release file" in details.read_text()


def test_a_probed_wrapper_answers_that_it_is_no_bazel(
    here: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.fake("bazelisk")
    monkeypatch.setenv(wrapper.PROBE_VARIABLE, "1")

    assert wrapper.main(["--version"]) == 1


def test_another_python_hands_over_to_a_3_11_on_the_path(
    here: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    here.script("python3.11", "#!/bin/sh\nexit 127\n", here.home / "broken shims")
    right = here.script("python3.11", '#!/bin/sh\necho "3 11"\necho "$0"\n')
    path = f"{here.home}/broken shims:{here.bin}"
    monkeypatch.setenv("KILN_CALLER_PATH", path)

    with pytest.raises(Executed) as replaced:
        wrapper.main(["info"])

    assert replaced.value.command[0] == str(right)
    assert replaced.value.command[-2:] == [os.path.realpath(wrapper.__file__), "info"]


def test_without_python_3_11_it_says_what_to_install(
    here: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    here.script("python3", '#!/bin/sh\necho "3 13"\necho "$0"\n')

    assert wrapper.main(["info"]) == 1
    assert "Python 3.11" in capsys.readouterr().err
