"""Three programs state the commit that something was made from, and agree on what is dirty: the
signer, the stamp of a release build, and the provenance of a training."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.supply_chain.provenance import commit_of, repository_of
from ml.runs.provenance import git_revision

STATUS = Path("tools/workspace_status").absolute()


def stamped(workspace: Path) -> str:
    """As a build with `--config=release` stamps it."""
    done = subprocess.run([STATUS], cwd=workspace, capture_output=True, text=True, check=True)
    values = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    short, dash, rest = values["STABLE_REVISION"].partition("-")
    whole = values["STABLE_GIT_REVISION"]
    assert whole.startswith(short)
    assert whole.endswith(dash + rest)
    return whole


def trained(workspace: Path) -> str:
    """As a run that starts in the workspace notes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BUILD_WORKSPACE_DIRECTORY", str(workspace))
        return git_revision()


def git(workspace: Path, *command: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=n@x", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *identity, *command], cwd=workspace, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with one commit."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    (tmp_path / "tracked").write_text("a\n")
    for command in (("init", "-q"), ("add", "."), ("commit", "-qm", "first")):
        git(tmp_path, *command)
    return tmp_path


everywhere = pytest.mark.parametrize("commit", [commit_of, stamped, trained])


def generate(workspace: Path) -> None:
    (workspace / "MODULE.bazel.lock").write_text("{}\n")


def touch(workspace: Path) -> None:
    os.utime(workspace / "tracked", (1, 1))


def edit(workspace: Path) -> None:
    (workspace / "tracked").write_text("b\n")


def stage(workspace: Path) -> None:
    edit(workspace)
    git(workspace, "add", "tracked")


def delete(workspace: Path) -> None:
    (workspace / "tracked").unlink()


def add(workspace: Path) -> None:
    (workspace / "new").write_text("a\n")
    git(workspace, "add", "new")


@everywhere
@pytest.mark.parametrize("change", [lambda workspace: None, generate, touch])
def test_a_commit_whose_tracked_files_are_as_committed_is_clean(
    workspace: Path, commit: Callable[[Path], str], change: Callable[[Path], None]
) -> None:
    change(workspace)
    assert commit(workspace) == git(workspace, "rev-parse", "HEAD")


@everywhere
@pytest.mark.parametrize("change", [edit, stage, delete, add])
def test_a_tracked_file_that_differs_makes_it_dirty(
    workspace: Path, commit: Callable[[Path], str], change: Callable[[Path], None]
) -> None:
    change(workspace)
    assert commit(workspace) == git(workspace, "rev-parse", "HEAD") + "-dirty"


def test_outside_git_no_commit_is_stated(tmp_path: Path) -> None:
    assert (commit_of(tmp_path), repository_of(tmp_path)) == ("", "")
