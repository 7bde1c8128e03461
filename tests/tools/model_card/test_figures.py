"""Measuring a workspace: a small clone whose Bazel leaves the files that the real one leaves."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tools.model_card.figures import main

BAZEL = """#!/bin/sh
here=$(dirname "$0")
for last; do :; done
case "$*" in
*fails*) exit 7 ;;
*benchmark*) echo '{"results": [{"closed": {"1": {"p50_ms": 2.1, "p99_ms": 2.5}}}]}' > "$last" ;;
*cold_start*) echo '{"function": [{"wall_s": 0.3}, {"wall_s": 0.2}, {"wall_s": 0.9}]}' > "$last" ;;
*cquery*) echo bin/image ;;
*execution_root*) (cd "$here/.." && pwd) ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    workspace = tmp_path / "clone"
    put(workspace, "tools/bazel", BAZEL)
    (workspace / "tools/bazel").chmod(0o755)
    metrics = {
        "test": {"classes": ["a"], "confusion": [[3]]},
        "provenance": {"fp32": {"version": "u"}, "int8": {"version": "v"}},
        "model_bytes": 10,
        "int8": {"test": {"classes": ["a"], "confusion": [[2]]}, "model_bytes": 3},
    }
    put(workspace, "ml/bundled/metrics.json", json.dumps(metrics))
    put(workspace, "bin/image/index.json", json.dumps({"manifests": [{"digest": "sha256:m"}]}))
    manifest = {"config": {"digest": "sha256:c"}, "layers": [{"digest": "sha256:l", "size": 5}]}
    put(workspace, "bin/image/blobs/sha256/m", json.dumps(manifest))
    history = [{"empty_layer": True}, {"created_by": "bazel //serve/image:model"}]
    put(workspace, "bin/image/blobs/sha256/c", json.dumps({"history": history}))
    me = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], [*me, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=workspace, check=True)
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(workspace))
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    return workspace


def put(workspace: Path, name: str, text: str) -> None:
    path = workspace / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_figures_of_the_workspace(clone: Path) -> None:
    assert main(["--output=head.json"]) == 0
    found = json.loads((clone.parent / "head.json").read_text())
    assert found.pop("revision")
    assert found == {
        "test": {"classes": ["a"], "confusion": [[2]]},
        "model_version": "v",
        "onnx_bytes": 10,
        "int8_bytes": 3,
        "p50_ms": 2.1,
        "p99_ms": 2.5,
        "cold_start_ms": 300.0,
        "layers": [{"digest": "sha256:l", "bytes": 5, "name": "model"}],
    }


def test_figures_of_another_revision_leave_the_workspace_as_it_was(clone: Path) -> None:
    put(clone, "ml/bundled/metrics.json", "not even JSON")
    assert main(["--at=HEAD", "--output=base.json"]) == 0
    assert json.loads((clone.parent / "base.json").read_text())["onnx_bytes"] == 10
    trees = subprocess.run(
        ["git", "worktree", "list"], cwd=clone, capture_output=True, text=True, check=True
    )
    assert len(trees.stdout.splitlines()) == 1


def test_a_failed_build_is_named(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(clone, "tools/bazel", "#!/bin/sh\nexit 7\n")
    assert main(["--output=head.json"]) == 1
    assert {"build", "//serve:image", "7"} <= set(capsys.readouterr().err.split())


def test_an_unknown_revision_is_named(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--at=nowhere", "--output=base.json"]) == 1
    assert "nowhere" in capsys.readouterr().err
