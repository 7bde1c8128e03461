"""Where a program comes from: Debian's pinned suite, else PATH, else a note that says why not."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.tools.apt_repository import (
    MISSING,
    WHY_SKIPPED,
    AptRepository,
    apt_config,
    served,
    signer,
    ubuntu,
)
from tests.tools.starlark import ROOT, Failed, RepositoryContext, load_bzl

RULE = load_bzl("tools/debian/repository.bzl")
needs_apt = pytest.mark.skipif(bool(MISSING), reason=WHY_SKIPPED)


@pytest.fixture
def rctx(tmp_path: Path) -> RepositoryContext:
    """Of a machine without apt; the package has the program `lantern`."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "repository").mkdir()
    attributes = SimpleNamespace(
        package="lantern-tools",
        programs=["lantern"],
        suite="forky",
        major=0,
        other_names={},
        _program=ROOT / "tools/provision/debian.py",
        _python=Path(sys.executable),
    )
    environment = {
        "PATH": str(tmp_path / "bin"),
        "HOME": str(tmp_path),
        "KILN_CACHE": str(tmp_path / "cache"),
    }
    return RepositoryContext(tmp_path / "repository", environment, attributes)


def install(rctx: RepositoryContext, name: str, says: str = "1.0") -> Path:
    program = Path(rctx.environment["PATH"].split(":")[0], name)
    program.write_text(f"#!/bin/sh\necho {name}, version {says}\n")
    program.chmod(0o755)
    return program


def use_sources(rctx: RepositoryContext, sources: str) -> None:
    """This machine's real apt, with these sources alone."""
    rctx.environment = {
        **rctx.environment,
        "PATH": f"{rctx.environment['PATH']}:{os.environ['PATH']}",
        "APT_CONFIG": str(apt_config(Path(rctx.environment["HOME"]), sources)),
    }


def make(rctx: RepositoryContext) -> str:
    """The file that the label `:lantern` means."""
    RULE["_debian_package_impl"](rctx)
    text = (rctx.folder / "BUILD.bazel").read_text()
    assert 'name = "lantern"' in text
    place = text.split('srcs = ["')[1].split('"')[0]
    assert (rctx.folder / place).exists()
    return place


@needs_apt
def test_on_ubuntu_the_label_is_a_note_that_says_why(
    rctx: RepositoryContext, tmp_path: Path
) -> None:
    with ubuntu(tmp_path) as sources:
        use_sources(rctx, sources)
        assert make(rctx) == "missing/lantern"

    package, why_not = (rctx.folder / "missing/lantern").read_text().splitlines()
    assert package == "lantern-tools"
    assert "forky" in why_not


@needs_apt
def test_on_ubuntu_a_program_on_the_path_serves_under_the_same_label(
    rctx: RepositoryContext, tmp_path: Path
) -> None:
    program = install(rctx, "lantern")

    with ubuntu(tmp_path) as sources:
        use_sources(rctx, sources)
        assert make(rctx) == "root/usr/bin/lantern"

    assert (rctx.folder / "root/usr/bin/lantern").samefile(program)


@needs_apt
def test_a_suite_that_a_stranger_signed_is_not_offered(
    rctx: RepositoryContext, tmp_path: Path
) -> None:
    with signer() as stranger:
        archive = AptRepository(tmp_path / "archive", suite="forky")
        archive.add("lantern-tools", {"usr/bin/lantern": "dark\n"})
        archive.publish(stranger)
        with served(archive) as server:
            use_sources(rctx, f"deb [signed-by={stranger.keyring}] {server.url} forky main\n")
            assert make(rctx) == "missing/lantern"
            assert server.fetched_packages() == []


@needs_apt
def test_a_mirror_out_of_reach_is_asked_once_for_all_packages(
    rctx: RepositoryContext, tmp_path: Path
) -> None:
    with socket.socket() as unanswered:
        unanswered.bind(("127.0.0.1", 0))  # and never listens
        port = unanswered.getsockname()[1]
        use_sources(rctx, f"deb http://127.0.0.1:{port}/ubuntu noble main\n")
        assert make(rctx) == "missing/lantern"
        (refused,) = tmp_path.glob("cache/debian/apt/forky-*/refused")
        asked_at = refused.stat().st_mtime_ns

        second = RepositoryContext(tmp_path / "second", rctx.environment, rctx.attr)
        second.folder.mkdir()
        assert make(second) == "missing/lantern"

    assert refused.stat().st_mtime_ns == asked_at


def test_without_apt_the_program_of_the_path_serves(rctx: RepositoryContext) -> None:
    program = install(rctx, "lantern")

    assert make(rctx) == "root/usr/bin/lantern"
    assert (rctx.folder / "root/usr/bin/lantern").samefile(program)
    assert str(program) in rctx.watched


def test_elsewhere_a_program_may_have_another_name(rctx: RepositoryContext) -> None:
    rctx.attr.other_names = {"lantern": ["torch", "lamp"]}
    lamp = install(rctx, "lamp")

    assert make(rctx) == "root/usr/bin/lantern"
    assert (rctx.folder / "root/usr/bin/lantern").samefile(lamp)


@pytest.mark.parametrize(
    ("says", "place"),
    [("2.45.3+ds", "missing/lantern"), ("3.5.0", "root/usr/bin/lantern"), ("?", "missing/lantern")],
)
def test_a_program_that_is_too_old_does_not_serve(
    rctx: RepositoryContext, says: str, place: str
) -> None:
    rctx.attr.major = 3
    install(rctx, "lantern", says)

    assert make(rctx) == place


def test_the_note_goes_when_apt_or_the_program_comes(rctx: RepositoryContext) -> None:
    make(rctx)

    folder = rctx.environment["PATH"]
    assert {f"{folder}/lantern", f"{folder}/apt-get", "$PATH"} <= rctx.watched


def test_other_systems_are_not_asked_for_apt(rctx: RepositoryContext) -> None:
    for name in ("apt-get", "dpkg-deb"):
        install(rctx, name)
    rctx.os.name = "mac os x"

    assert make(rctx) == "missing/lantern"


@pytest.mark.parametrize("code", [1, 2])
def test_a_package_that_is_offered_and_comes_wrong_fails_the_build(
    rctx: RepositoryContext, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    for name in ("apt-get", "dpkg-deb", "lantern"):
        install(rctx, name)
    done = SimpleNamespace(return_code=code, stdout="", stderr="other bytes than the index says")
    monkeypatch.setattr(rctx, "execute", lambda command, **options: done)

    with pytest.raises(Failed, match="lantern-tools could not be unpacked"):
        make(rctx)
