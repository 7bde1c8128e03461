"""What a run was made from, and how that is compared with the run it continues or repeats."""

import os
import subprocess
from pathlib import Path

import pytest

from ml.runs.folder import RunFolder
from ml.runs.provenance import (
    git_revision,
    mark_rerun,
    read_provenance,
    record_start,
    uncommitted_changes,
)


@pytest.fixture(autouse=True)
def code(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A commit without changes, and one lock."""
    _set(monkeypatch, revision="a" * 40)
    return monkeypatch


def _set(
    monkeypatch: pytest.MonkeyPatch, *, revision: str, changes: str = "", lock: str = "b" * 64
) -> None:
    monkeypatch.setattr("ml.runs.provenance.git_revision", lambda: revision)
    monkeypatch.setattr("ml.runs.provenance.uncommitted_changes", lambda: changes)
    monkeypatch.setattr("ml.runs.provenance.lock_digest", lambda: lock)


def _record(run: RunFolder, device: str = "cpu", **own_code: str) -> list[str]:
    return record_start(
        run,
        config_digest="c",
        dataset_digest="d",
        classes=("cat", "dog"),
        device=device,
        own_code=own_code,
    )


def test_a_new_run_says_what_it_is_made_from(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    assert _record(run) == []
    provenance = read_provenance(run)
    assert provenance["git_revision"] == "a" * 40
    assert provenance["lock_digest"] == "b" * 64
    assert (provenance["config_digest"], provenance["dataset_digest"]) == ("c", "d")
    assert provenance["classes"] == ["cat", "dog"]
    assert not run.changes.exists()


def test_uncommitted_changes_are_kept_with_the_run(
    tmp_path: Path, code: pytest.MonkeyPatch
) -> None:
    _set(code, revision="a" * 40 + "-dirty", changes="--- a\n+++ b\n")
    run = RunFolder(tmp_path / "run")
    _record(run)
    assert run.changes.read_text() == "--- a\n+++ b\n"
    assert len(read_provenance(run)["changes_digest"]) == 64


def test_a_rerun_with_the_same_ingredients_has_nothing_to_warn_of(tmp_path: Path) -> None:
    original, run = RunFolder(tmp_path / "original"), RunFolder(tmp_path / "run")
    _record(original)
    mark_rerun(run, original)
    assert _record(run) == []
    assert read_provenance(run)["rerun_of"] == str(original.path)


def test_a_rerun_names_what_differs(tmp_path: Path, code: pytest.MonkeyPatch) -> None:
    original, run = RunFolder(tmp_path / "original"), RunFolder(tmp_path / "run")
    _record(original)
    _set(code, revision="f" * 40, changes="a patch", lock="e" * 64)
    mark_rerun(run, original)
    revision, changes, lock, device = _record(run, device="cuda")
    assert revision.endswith("revision: aaaaaaaaaaaa then, ffffffffffff now")
    assert "uncommitted changes: none then, " in changes
    assert lock.endswith("lock: bbbbbbbbbbbb then, eeeeeeeeeeee now")
    assert device.endswith(": cpu then, cuda now")


def test_a_rerun_of_a_run_without_provenance_says_so(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    mark_rerun(run, RunFolder(tmp_path / "old"))
    (warning,) = _record(run)
    assert warning.startswith(f"{tmp_path / 'old'} ")


def test_a_continued_run_keeps_its_first_record(tmp_path: Path, code: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path / "run")
    _record(run)
    assert _record(run) == []
    assert "continued" not in read_provenance(run)
    _set(code, revision="f" * 40)
    assert len(_record(run)) == 1
    assert read_provenance(run)["git_revision"] == "a" * 40
    assert read_provenance(run)["continued"][0]["git_revision"] == "f" * 40


def test_a_run_that_continues_with_other_code_of_the_users_names_the_modules(
    tmp_path: Path,
) -> None:
    run = RunFolder(tmp_path / "run")
    assert _record(run, nets="1" * 64, layers="2" * 64) == []
    assert read_provenance(run)["own_code"] == {"nets": "1" * 64, "layers": "2" * 64}
    assert _record(run, nets="1" * 64, layers="2" * 64) == []
    (warning,) = _record(run, nets="1" * 64, layers="3" * 64, heads="4" * 64)
    assert warning.endswith("heads, layers changed")
    assert read_provenance(run)["continued"][0]["own_code"]["layers"] == "3" * 64


def test_changes_are_those_of_what_training_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    for folder in ("ml", "infra"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text("1\n")
    identity = ("-c", "user.name=n", "-c", "user.email=e@x")
    for command in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-qm", "m")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    assert uncommitted_changes() == ""
    (tmp_path / "infra" / "a.py").write_text("2\n")
    assert uncommitted_changes() == ""
    assert git_revision().endswith("-dirty")
    (tmp_path / "ml" / "a.py").write_text("2\n")
    assert "-1\n+2\n" in uncommitted_changes()
    (tmp_path / "ml" / "new").mkdir()
    (tmp_path / "ml" / "new" / "nets.py").write_text("3\n")
    (tmp_path / "ml" / "notes.bin").write_bytes(bytes(9))
    patch = uncommitted_changes()
    assert "+++ b/ml/new/nets.py" in patch
    assert "notes.bin" not in patch
    subprocess.run(["git", "stash", "-qu"], cwd=tmp_path, check=True, env=_anonymous())
    subprocess.run(["git", "apply"], cwd=tmp_path, check=True, input=patch, text=True)
    assert (tmp_path / "ml" / "new" / "nets.py").read_text() == "3\n"
    assert (tmp_path / "ml" / "a.py").read_text() == "2\n"


def _anonymous() -> dict[str, str]:
    who = ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL")
    return {**os.environ, **dict.fromkeys(who, "n")}
