"""The command line of ml/data/fetch.py, run as the repository rule runs it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ml.data.fetch
from tests.ml.data.loopback import Response, serve
from tests.ml.data.tiny_dataset import tiny_dataset

DATA = tiny_dataset()
PROGRAM = ml.data.fetch.__file__


@pytest.fixture
def pin(tmp_path: Path) -> Path:
    return DATA.write_pin(tmp_path / "data.dvc")


def command(pin: Path, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-B", PROGRAM, "--pin", str(pin), *map(str, arguments)]


def environment(pin: Path) -> dict[str, str]:
    """No programs, no network, an empty cache."""
    return {
        "KILN_CACHE": str(pin.parent / "cache"),
        "PATH": str(pin.parent),
        "HOME": str(pin.parent),
    }


def run(pin: Path, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(pin, *arguments),
        env=environment(pin) | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_fetches_into_the_cache_and_prints_the_folder(pin: Path, tmp_path: Path) -> None:
    remote = DATA.write_remote(tmp_path / "remote")
    done = run(pin, "--remote", remote)
    assert done.returncode == 0, done.stderr
    DATA.pin.check(Path(done.stdout.strip()))
    assert "fetched from dvc" in done.stderr


def test_the_remote_may_come_from_the_environment(pin: Path, tmp_path: Path) -> None:
    remote = DATA.write_remote(tmp_path / "remote")
    done = run(pin, "--output", tmp_path / "output", KILN_DVC_REMOTE=str(remote))
    assert done.stdout.strip() == str(tmp_path / "output")
    DATA.pin.check(tmp_path / "output")


def test_paths_start_where_bazel_run_was_typed(pin: Path, tmp_path: Path) -> None:
    DATA.write_remote(tmp_path / "typed" / "remote")
    typed_in = {"BUILD_WORKING_DIRECTORY": str(tmp_path / "typed")}
    done = run(pin, "--remote", "remote", "--output", "here/output", **typed_in)
    assert done.returncode == 0, done.stderr
    DATA.pin.check(tmp_path / "typed" / "here" / "output")


def test_when_nothing_delivers_it_says_so_and_exits_with_1(pin: Path, tmp_path: Path) -> None:
    done = run(pin, "--source", "dvc", "--source", "npm", "--remote", tmp_path / "nowhere")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "  dvc: the remote's folder" in done.stderr
    assert "  npm: npm is not on PATH" in done.stderr
    assert "Traceback" not in done.stderr


def test_verify_accepts_right_files_and_fetches_nothing(pin: Path, tmp_path: Path) -> None:
    output = DATA.write_files(tmp_path / "output")
    assert run(pin, "--verify", "--output", output).returncode == 0
    done = run(pin, "--verify")
    assert done.returncode == 1
    assert "train.bin is missing" in done.stderr


def test_verify_names_a_wrong_file_and_exits_with_1(pin: Path, tmp_path: Path) -> None:
    output = DATA.write_files(tmp_path / "output")
    (output / "test.bin").write_bytes(b"other")
    done = run(pin, "--verify", "--output", output)
    assert done.returncode == 1
    assert (
        f"{output}/test.bin is not the pinned file: expected md5 {DATA.pin.test.md5}" in done.stderr
    )


def test_a_broken_pin_is_told_and_exits_with_1(pin: Path) -> None:
    pin.write_text("outs:\n")
    done = run(pin)
    assert done.returncode == 1
    assert f"{pin} should pin train.bin and test.bin" in done.stderr


def test_wrong_usage_exits_with_2(pin: Path) -> None:
    assert run(pin, "--source", "elsewhere").returncode == 2


def test_an_interrupt_leaves_nothing_half_written_and_exits_with_130(
    pin: Path, tmp_path: Path
) -> None:
    train = DATA.pin.train
    path = f"/files/md5/{train.md5[:2]}/{train.md5[2:]}"
    silent = Response(DATA.train, waits=True)
    with (
        serve({path: silent}) as address,
        subprocess.Popen(
            command(pin, "--remote", address),
            env=environment(pin),
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert silent.asked.wait(30)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in said
    assert not list((tmp_path / "cache" / "cifar10").glob(".*partial*"))
