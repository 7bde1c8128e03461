"""The lock: agrees with its requirements, and is replaced whole or not at all."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from tools.lock import (
    FOLDERS,
    LOCK,
    REQUIREMENTS,
    LockFailed,
    compile_lock,
    digest,
    disagreements,
    main,
)

ROOT = Path(__file__).absolute().parents[2]
HASH = f"--hash=sha256:{'0' * 64}"


def lock_of(requirements: str, *entries: str) -> str:
    return "\n".join([f"# requirements.in: sha256:{digest(requirements)}", *entries]) + "\n"


def fake_uv(folder: Path, script: str) -> Path:
    uv = folder / "uv"
    uv.write_text(f"#!/bin/sh\nfor last; do :; done\n{script}\n")
    uv.chmod(uv.stat().st_mode | stat.S_IXUSR)
    return uv


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / REQUIREMENTS).write_text("numpy>=2\n")
    (tmp_path / LOCK).write_text("numpy==2.0 \\\n    --hash=sha256:11\n")
    return tmp_path


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_locks_of_this_repository_agree_with_their_requirements(folder: str) -> None:
    requirements, lock = ((ROOT / folder / name).read_text() for name in (REQUIREMENTS, LOCK))
    assert disagreements(requirements, lock) == [], "run: bazel run //tools:lock"


def test_a_satisfied_requirement_with_extras_and_another_spelling_agrees() -> None:
    requirements = "Moto[server,s3] >= 5  # the fake cloud\n"
    lock = lock_of(requirements, f"moto[all, s3, server]==5.2.5 {HASH}")
    assert disagreements(requirements, lock) == []


@pytest.mark.parametrize(
    ("requirements", "entry", "sentence"),
    [
        ("numpy>=2", f"scipy==1.0 {HASH}", "numpy is not pinned"),
        ("numpy>=2", f"numpy==1.9 {HASH}", "numpy is pinned at 1.9, required is >=2"),
        ("dvc[s3]>=3", f"dvc==3.1 {HASH}", "dvc is pinned without its extras s3"),
        ("numpy>=2", "numpy==2.1", "numpy has no sha256 hash"),
    ],
)
def test_each_disagreement_is_named(requirements: str, entry: str, sentence: str) -> None:
    assert disagreements(requirements, lock_of(requirements, entry)) == [sentence]


def test_a_lock_of_other_requirements_disagrees_even_if_its_pins_satisfy_them() -> None:
    lock = lock_of("numpy>=2", f"numpy==2.1 {HASH}")
    assert disagreements("numpy>=2.1", lock) == [
        f"{REQUIREMENTS} changed after {LOCK} was compiled"
    ]


def test_the_digest_ignores_comments_order_and_blank_space() -> None:
    assert digest("a>=1\nb>=2 # why\n\n# c") == digest("b >= 2\na>=1")
    assert digest("a>=1") != digest("a>=2")


def test_compiling_stamps_the_lock_and_keeps_what_uv_wrote(workspace: Path) -> None:
    uv = fake_uv(workspace, 'echo "# kept" >>"$last"')
    compile_lock(workspace, uv)
    written = (workspace / LOCK).read_text()
    assert "numpy==2.0" in written, "uv was not shown the versions pinned so far"
    assert written.endswith("# kept\n")
    assert disagreements("numpy>=2", written) == []


def test_a_failing_uv_leaves_the_lock_alone(workspace: Path) -> None:
    before = (workspace / LOCK).read_text()
    with pytest.raises(LockFailed):
        compile_lock(workspace, fake_uv(workspace, 'echo half >"$last"; exit 2'))
    assert (workspace / LOCK).read_text() == before
    assert sorted(path.name for path in workspace.glob(f"{LOCK}*")) == [LOCK]


def test_upgrades_reach_uv(workspace: Path) -> None:
    uv = fake_uv(workspace, 'echo "$@" >asked')
    compile_lock(workspace, uv, ["--upgrade-package=numpy"])
    assert "--upgrade-package=numpy" in (workspace / "asked").read_text()


def test_check_says_what_to_run(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(workspace))
    for folder in FOLDERS[1:]:
        (workspace / folder).mkdir(parents=True)
        for name in (REQUIREMENTS, LOCK):
            shutil.copy(workspace / name, workspace / folder / name)
    assert main(["--check"]) == 1
    assert "run bazel run //tools:lock" in capsys.readouterr().out
