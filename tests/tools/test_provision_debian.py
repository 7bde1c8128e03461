"""Packages are fetched, verified and unpacked whole or not at all, from a real archive."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.waiting import wait_until
from tests.tools.apt_repository import (
    MISSING,
    SUITE,
    WHY_SKIPPED,
    AptRepository,
    Server,
    Signer,
    served,
    signer,
)
from tools.provision import debian

pytestmark = pytest.mark.skipif(bool(MISSING), reason=WHY_SKIPPED)

PROGRAM = (sys.executable, "-I", "-S", "-B", debian.__file__)


@dataclass(frozen=True)
class Done:
    returncode: int
    stderr: str


Run = Callable[..., Done]


@pytest.fixture(scope="module")
def archive_signer() -> Iterator[Signer]:
    with signer() as made:
        yield made


@pytest.fixture
def repository(tmp_path: Path, archive_signer: Signer) -> AptRepository:
    made = AptRepository(tmp_path / "archive")
    made.add("lantern", {"usr/bin/lantern": "light\n"}, depends="wick")
    made.add("wick", {"usr/share/wick": "cotton\n"}, depends="wax")
    made.add("wax", {"usr/share/wax": "bees\n"})
    made.publish(archive_signer)
    return made


@pytest.fixture
def server(repository: AptRepository) -> Iterator[Server]:
    with served(repository) as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def command(server: Server, archive_signer: Signer) -> Callable[..., list[str]]:
    def build(verb: str, *arguments: str) -> list[str]:
        origin = ["--mirror", server.url, "--keyring", str(archive_signer.keyring)]
        return [*PROGRAM, verb, *origin, *arguments]

    return build


@pytest.fixture
def environment(cache: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "KILN_CACHE": str(cache), "HOME": str(cache)}


@pytest.fixture
def run(
    command: Callable[..., list[str]],
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def call(verb: str, *arguments: str) -> Done:
        capsys.readouterr()
        code = debian.main(command(verb, *arguments)[len(PROGRAM) :])
        return Done(code, capsys.readouterr().err)

    return call


def wanted(packages: str, *others: str, output: Path) -> list[str]:
    return ["--suite", SUITE, "--packages", packages, *others, "--output", str(output)]


def files_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_package_comes_alone_unless_its_closure_is_asked_for(run: Run, tmp_path: Path) -> None:
    alone, all_of_it, part = tmp_path / "alone", tmp_path / "all", tmp_path / "part"

    assert run("unpack", *wanted("lantern", output=alone)).returncode == 0
    assert run("unpack", *wanted("lantern", "--closure", output=all_of_it)).returncode == 0
    thin = run("unpack", *wanted("lantern", "--closure", "--without", "wa*", output=part))

    assert thin.returncode == 0
    assert files_below(alone) == ["usr/bin/lantern"]
    assert files_below(all_of_it) == ["usr/bin/lantern", "usr/share/wax", "usr/share/wick"]
    assert files_below(part) == ["usr/bin/lantern", "usr/share/wick"]


def test_a_second_clone_on_the_machine_fetches_nothing(
    run: Run, server: Server, tmp_path: Path
) -> None:
    run("unpack", *wanted("wax,wick", output=tmp_path / "first"))
    server.requested.clear()

    second = run("unpack", *wanted("wax,wick", output=tmp_path / "second"))

    assert second.returncode == 0
    assert server.requested == []
    assert files_below(tmp_path / "second") == ["usr/share/wax", "usr/share/wick"]


def test_a_package_with_other_bytes_than_the_index_says_is_refused_by_name(
    run: Run, repository: AptRepository, cache: Path, tmp_path: Path
) -> None:
    deb = repository.folder / "pool/wick_1.0_all.deb"
    deb.write_bytes(deb.read_bytes()[:-1] + b"X")

    done = run("unpack", *wanted("lantern", "--closure", output=tmp_path / "root"))

    assert done.returncode == 1
    assert "wick 1.0" in done.stderr
    assert "lantern 1.0" not in done.stderr
    assert not (tmp_path / "root").exists()
    assert len(list((cache / "debian/pool").rglob("*.deb"))) == 2


def test_a_kept_package_that_was_changed_is_fetched_again(
    run: Run, server: Server, cache: Path, tmp_path: Path
) -> None:
    run("unpack", *wanted("wax", output=tmp_path / "first"))
    (kept,) = (cache / "debian/pool").rglob("*.deb")
    good = kept.read_bytes()
    kept.write_bytes(good[:-1] + b"X")
    server.requested.clear()

    done = run("unpack", *wanted("wax", output=tmp_path / "second"))

    assert done.returncode == 0
    assert kept.read_bytes() == good
    assert server.fetched_packages() == ["/pool/wax_1.0_all.deb"]


def test_an_index_signed_by_a_stranger_is_refused(
    run: Run, repository: AptRepository, tmp_path: Path
) -> None:
    with signer() as stranger:
        repository.publish(stranger)

    done = run("unpack", *wanted("wax", output=tmp_path / "root"))

    assert done.returncode == 1
    assert "NO_PUBKEY" in done.stderr
    assert not (tmp_path / "root").exists()


def test_an_unsigned_index_is_refused(run: Run, repository: AptRepository, tmp_path: Path) -> None:
    (repository.folder / "dists" / SUITE / "InRelease").unlink()

    done = run("unpack", *wanted("wax", output=tmp_path / "root"))

    assert done.returncode == 1
    assert "is not signed" in done.stderr


def test_an_unknown_package_is_an_error_that_names_it_and_the_suite(
    run: Run, tmp_path: Path
) -> None:
    done = run("unpack", *wanted("torch-light", output=tmp_path / "root"))

    assert done.returncode == 1
    assert all(name in done.stderr for name in ("torch-light", SUITE))
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("packages", "code"), [("torch-light", 3), ("wick", 1)])
def test_only_what_is_not_offered_is_told_apart(
    run: Run, repository: AptRepository, tmp_path: Path, packages: str, code: int
) -> None:
    (repository.folder / "pool/wick_1.0_all.deb").write_text("other bytes")

    done = run("unpack", "--if-offered", *wanted(packages, output=tmp_path / "root"))

    assert done.returncode == code


def test_an_existing_folder_is_left_alone(run: Run, tmp_path: Path) -> None:
    mine = tmp_path / "root" / "mine"
    mine.parent.mkdir()
    mine.write_text("mine")

    done = run("unpack", *wanted("wax", output=tmp_path / "root"))

    assert done.returncode == 1
    assert str(tmp_path / "root") in done.stderr
    assert files_below(tmp_path / "root") == ["mine"]


def test_what_a_killed_call_left_is_swept_and_the_next_one_succeeds(
    run: Run,
    command: Callable[..., list[str]],
    environment: dict[str, str],
    server: Server,
    cache: Path,
    tmp_path: Path,
) -> None:
    root = tmp_path / "root"
    server.gate.clear()
    with started(command("unpack", *wanted("wax,wick", output=root)), environment):
        wait_until(lambda: bool(server.fetched_packages()))
    assert not root.exists()
    assert leftovers(cache) != []

    server.gate.set()
    done = run("unpack", *wanted("wax,wick", output=root))

    assert done.returncode == 0, done.stderr
    assert files_below(root) == ["usr/share/wax", "usr/share/wick"]
    assert leftovers(cache) == []
    assert leftovers(tmp_path) == []


def test_two_calls_at_once_share_one_download_and_the_second_says_that_it_waits(
    command: Callable[..., list[str]],
    environment: dict[str, str],
    server: Server,
    tmp_path: Path,
) -> None:
    server.gate.clear()
    calls = [command("unpack", *wanted("wax,wick", output=tmp_path / name)) for name in "12"]
    with started(calls[0], environment) as first, started(calls[1], environment) as second:
        wait_until(lambda: bool(server.fetched_packages()))
        time.sleep(1.0)  # both are under way now; one of them holds the lock
        server.gate.set()
        messages = [process.communicate(timeout=60)[1] for process in (first, second)]

    assert (first.returncode, second.returncode) == (0, 0), messages
    # The one that waited may go on first, and the other wait for it in turn.
    assert any("waiting for it" in message for message in messages), messages
    assert server.fetched_packages() == ["/pool/wax_1.0_all.deb", "/pool/wick_1.0_all.deb"]
    assert files_below(tmp_path / "1") == files_below(tmp_path / "2")


def test_a_lock_names_no_mirror_and_gives_the_same_files(run: Run, tmp_path: Path) -> None:
    lock = tmp_path / "image.lock.json"
    assert run("resolve", *wanted("wax,wick", output=lock)).returncode == 0

    done = run("unpack", "--lock", str(lock), "--output", str(tmp_path / "root"))

    assert done.returncode == 0
    assert files_below(tmp_path / "root") == ["usr/share/wax", "usr/share/wick"]
    assert "://" not in lock.read_text()
    assert [deb["package"] for deb in json.loads(lock.read_text())["debs"]] == ["wax", "wick"]


def test_a_locked_package_that_the_mirror_dropped_is_named_with_the_cure(
    run: Run, repository: AptRepository, tmp_path: Path
) -> None:
    lock = tmp_path / "image.lock.json"
    run("resolve", *wanted("wax,wick", output=lock))
    (repository.folder / "pool/wax_1.0_all.deb").unlink()

    done = run("unpack", "--lock", str(lock), "--output", str(tmp_path / "root"))

    assert done.returncode == 1
    assert "wax 1.0" in done.stderr
    assert "resolve" in done.stderr


def test_a_broken_lock_is_an_error_that_names_the_file(run: Run, tmp_path: Path) -> None:
    lock = tmp_path / "image.lock.json"
    lock.write_text("{}")

    done = run("unpack", "--lock", str(lock), "--output", str(tmp_path / "root"))

    assert done.returncode == 1
    assert str(lock) in done.stderr


def test_refresh_asks_the_mirror_again(run: Run, server: Server, tmp_path: Path) -> None:
    run("unpack", *wanted("wax", output=tmp_path / "first"))
    server.requested.clear()

    done = run("unpack", *wanted("wax", "--refresh", output=tmp_path / "second"))

    assert done.returncode == 0
    assert any("InRelease" in path for path in server.requested)


@contextmanager
def started(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A running command that is killed with all its children when the block ends."""
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob(".*.partial-*"))
