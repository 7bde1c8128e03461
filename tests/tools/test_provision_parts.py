"""The parts of provisioning: locks, whole folders, links, the package pool, progress, trust."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import struct
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.waiting import wait_until
from tools.provision import archive, cache, trust
from tools.provision.apt import Deb
from tools.provision.cache import Progress, ProvisionError
from tools.provision.unpack import make_links_relative


def deb_of(data: bytes, package: str = "lantern") -> Deb:
    sha256 = hashlib.sha256(data).hexdigest()
    return Deb(package, "1.0", f"pool/{package}.deb", len(data), sha256)


# --- cache -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"KILN_CACHE": "/k", "XDG_CACHE_HOME": "/x"}, "/k"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/kiln"),
        ({"HOME": "/home/me"}, "/home/me/.cache/kiln"),
    ],
)
def test_the_cache_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name in ("KILN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert cache.cache_root() == Path(expected)


def test_a_failed_block_leaves_neither_the_folder_nor_its_beginnings(tmp_path: Path) -> None:
    def fill() -> None:
        with cache.staged(tmp_path / "made") as aside:
            (aside / "half").touch()
            raise ProvisionError("no more")

    with pytest.raises(ProvisionError, match="no more"):
        fill()

    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_under_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    made = tmp_path / "made"

    with cache.staged(made) as aside:
        (aside / "file").touch()
        assert not made.exists()

    assert [path.name for path in made.iterdir()] == ["file"]
    assert list(tmp_path.iterdir()) == [made]


def test_whoever_comes_second_waits_for_the_lock_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events: list[str] = []
    announced = threading.Event()

    def second() -> None:
        with cache.lock(tmp_path / "lock", "baking"):
            events.append("second")

    def say(message: str) -> None:
        events.append(message)
        announced.set()

    with pytest.MonkeyPatch.context() as patch, (tmp_path / "lock").open("a") as first:
        patch.setattr(cache, "say", say)
        fcntl.flock(first, fcntl.LOCK_EX)
        thread = threading.Thread(target=second)
        thread.start()
        assert announced.wait(10)
        events.append("first is done")
        fcntl.flock(first, fcntl.LOCK_UN)
        thread.join(10)

    waiting = "baking is already under way in another process; waiting for it"
    assert events == [waiting, "first is done", "second"]


# --- links -------------------------------------------------------------------------------------


def test_links_to_packaged_files_stay_inside_wherever_the_folder_goes(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc/java").mkdir(parents=True)
    (root / "etc/java/conf").write_text("setting")
    (root / "usr/lib/jvm").mkdir(parents=True)
    (root / "usr/lib/jvm/conf").symlink_to("/etc/java")
    (root / "usr/lib/null").symlink_to("/dev/null")
    (root / "usr/lib/near").symlink_to("jvm/conf")

    make_links_relative(root)
    root.rename(tmp_path / "moved")

    lib = tmp_path / "moved/usr/lib"
    assert (lib / "jvm/conf/conf").read_text() == "setting"
    assert (lib / "near/conf").read_text() == "setting"
    assert os.readlink(lib / "null") == "/dev/null"


# --- pool --------------------------------------------------------------------------------------


@given(st.lists(st.integers(min_value=1, max_value=60_000_000), max_size=300))
def test_batches_hold_every_package_once_and_keep_to_their_limits(sizes: list[int]) -> None:
    debs = [Deb(f"p{number}", "1", "", size, "") for number, size in enumerate(sizes)]

    batches = archive._batches(debs)

    assert sorted(deb for batch in batches for deb in batch) == sorted(debs)
    for batch in batches:
        assert 1 <= len(batch) <= archive.BATCH_FILES
        assert len(batch) == 1 or sum(deb.size for deb in batch) <= archive.BATCH_BYTES


def test_what_arrived_right_is_kept_when_another_package_fails(tmp_path: Path) -> None:
    good, bad = deb_of(b"good", "good"), deb_of(b"bad", "bad")

    def download(files: Sequence[tuple[Deb, Path]]) -> None:
        for deb, place in files:
            place.write_bytes(b"good" if deb is good else b"tampered")

    packages = archive.Pool(tmp_path / "pool")
    with pytest.raises(ProvisionError, match=r"index: bad 1\.0"):
        packages.ensure([good, bad], download, "fetching")

    assert packages.path(good).read_bytes() == b"good"
    assert not packages.path(bad).exists()


def test_the_reason_of_a_failed_download_is_passed_on(tmp_path: Path) -> None:
    def download(files: Sequence[tuple[Deb, Path]]) -> None:
        raise ProvisionError("404 not found")

    with pytest.raises(ProvisionError, match=r"lantern 1\.0 [^\n]*\n404 not found"):
        archive.Pool(tmp_path).ensure([deb_of(b"x")], download, "fetching")


# --- progress ----------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_one_line_that_fills_up() -> None:
    stream = Terminal()
    progress = Progress("fetching", 200_000_000, stream)

    progress.show(50_000_000)
    progress.finish()

    half, full = stream.getvalue().split("\r")[1:]
    assert half == "kiln: fetching  25 % (50 of 200 MB) [#######.......................]"
    assert full == "kiln: fetching 100 % (200 of 200 MB) [##############################]\n"


def test_a_log_gets_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("tools.provision.cache.time.monotonic", lambda: now)
    stream = io.StringIO()
    progress = Progress("fetching", 10_000_000, stream)

    for second in range(12):
        now = float(second)
        progress.show(second * 500_000)
    progress.finish()

    assert [line.split()[2] for line in stream.getvalue().splitlines()] == ["25", "50", "100"]


def test_long_work_is_never_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cache, "SILENCE_S", 0.2)

    with cache.lock(tmp_path / "outer", "baking"), cache.lock(tmp_path / "inner", "kneading"):
        time.sleep(1.1)

    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 6  # one for both of them


def test_work_that_speaks_needs_no_signs_of_life(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cache, "SILENCE_S", 0.5)
    monkeypatch.setattr(cache, "LINE_EVERY_S", 0.05)
    shown = Progress("fetching", 10_000_000, io.StringIO())

    with cache.signs_of_life("baking"):
        for done in range(20):
            shown.show(done)
            time.sleep(0.05)

    assert capsys.readouterr().err == ""


def test_whoever_waits_for_a_lock_hears_that_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[str] = []
    monkeypatch.setattr(cache, "SILENCE_S", 0.1)
    monkeypatch.setattr(cache, "say", waiting.append)

    def second() -> None:
        with cache.lock(tmp_path / "lock", "baking"):
            pass

    thread = threading.Thread(target=second)
    with (tmp_path / "lock").open("a") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        thread.start()
        wait_until(lambda: len(waiting) >= 3)  # that it waits, then that it still does
    thread.join(10)

    assert all("waiting" in message for message in waiting)


# --- trust -------------------------------------------------------------------------------------


def test_a_trust_store_reads_back_as_java_reads_it() -> None:
    certificates = [b"first certificate", b"second"]

    store = trust.java_trust_store(certificates)

    body, digest = store[:-20], store[-20:]
    salted = "changeit".encode("utf-16-be") + b"Mighty Aphrodite" + body
    assert hashlib.sha1(salted, usedforsecurity=False).digest() == digest
    assert struct.unpack_from(">III", body) == (0xFEEDFEED, 2, 2)
    assert _certificates(body) == certificates


def _certificates(body: bytes) -> list[bytes]:
    found, at = [], 12
    while at < len(body):
        (kind,) = struct.unpack_from(">I", body, at)
        assert kind == 2
        at += 4
        at += 2 + struct.unpack_from(">H", body, at)[0] + 8  # alias and date
        at += 2 + struct.unpack_from(">H", body, at)[0]  # certificate type
        (length,) = struct.unpack_from(">I", body, at)
        found.append(body[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def test_certificates_come_from_the_bundle_that_the_user_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "company.pem"
    body = "-----BEGIN CERTIFICATE-----\nY29t\ncGFueQ==\n-----END CERTIFICATE-----\n"
    bundle.write_text("# comment\n" + body * 2)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))

    assert trust.machine_certificates() == [b"company", b"company"]
