"""Sending runs to W&B after the fact, as a user types it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.program import Program
from tests.ml.tracking.finished_run import write_run
from tests.ml.tracking.loopback_wandb import KEY, LoopbackWandb, loopback_wandb


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackWandb]:
    with loopback_wandb() as server:
        yield server


def _sync(
    workspace: Path, server: LoopbackWandb, *arguments: str, key: str | None = KEY
) -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("WANDB")}
    environment |= {
        "BUILD_WORKSPACE_DIRECTORY": str(workspace),
        "COLUMNS": "200",
        "HOME": str(workspace),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "WANDB_BASE_URL": server.url,
    }
    environment |= {"WANDB_API_KEY": key} if key else {}
    return Program("ml.tracking.wandb_sync", *arguments, cwd=workspace, env=environment).finish()


def test_every_finished_run_is_sent_once(server: LoopbackWandb, tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "one")
    write_run(tmp_path / "runs" / "two", finished=False)
    first = _sync(tmp_path, server)
    assert first.returncode == 0, first.stderr
    assert "sent    one  http://127.0.0.1" in first.stdout
    assert "two" not in first.stdout
    again = _sync(tmp_path, server)
    assert again.returncode == 0, again.stderr
    assert "sent already" in again.stdout
    listed = _sync(tmp_path, server, "--list", key=None)
    assert [line.split()[:2] for line in listed.stdout.splitlines()[1:]] == [
        ["one", "finished"],
        ["two", "unfinished"],
    ]
    # Nothing is kept twice: the run folder holds what was sent.
    kept = {path.name for path in (tmp_path / "runs" / "one" / "wandb").iterdir()}
    assert kept <= {"id", "mirror.log", "synced.json", "config"}


def test_a_refused_key_fails_and_says_why(server: LoopbackWandb, tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "one")
    done = _sync(tmp_path, server, "runs/one", key="f" * 40)
    assert done.returncode == 1
    assert "failed  one" in done.stdout
    assert "key" in done.stdout.lower()


@pytest.mark.parametrize(
    ("arguments", "key", "complaint"),
    [
        ((), None, "no W&B key: put it into WANDB_API_KEY"),
        (("runs/gone",), KEY, "there is no folder"),
        (("empty",), KEY, "holds no config.yaml"),
        (("--below",), KEY, "expected one argument"),
    ],
)
def test_bad_input_is_explained_and_nothing_is_sent(
    server: LoopbackWandb,
    tmp_path: Path,
    arguments: tuple[str, ...],
    key: str | None,
    complaint: str,
) -> None:
    write_run(tmp_path / "runs" / "one")
    (tmp_path / "empty").mkdir()
    done = _sync(tmp_path, server, *arguments, key=key)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
