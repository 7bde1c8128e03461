"""The commands that sign the built image and check it, as people and workflows type them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.model.artifact import read_artifact
from common.programs import require_program
from infra.supply_chain import sign, verify
from tests.tools.image.registry import registry

DIGEST = Path(os.environ["DIGEST"]).read_text().strip()
HIDDEN = [f"--{name}={os.environ[name.upper()]}" for name in ("digest", "model", "lock", "sbom")]


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image that this build made, in a registry on loopback."""
    with registry(tmp_path_factory.mktemp("registry")) as server:
        crane = [str(require_program("crane")), "push", "--insecure"]
        name = f"{server.address}/kiln"
        subprocess.run([*crane, os.environ["IMAGE"], f"{name}:v1"], check=True, capture_output=True)
        yield f"{name}@{DIGEST}"


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with one commit, and a pair of keys outside of it."""
    workspace = tmp_path / "clone"
    workspace.mkdir()
    (workspace / "file").write_text("a\n")
    me = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for command in (
        ["init", "-q"],
        ["remote", "add", "origin", "https://me:secret@git.invalid/kiln.git"],
        ["add", "."],
        [*me, "commit", "-qm", "first"],
    ):
        subprocess.run(["git", *command], cwd=workspace, check=True)
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(workspace))
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    require_program("cosign")
    assert sign.main([*HIDDEN, "--new-key", "."]) == 0
    return workspace


def test_the_built_image_is_signed_and_tells_its_whole_chain(
    pushed: str, clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sign.main([*HIDDEN, pushed, "--key=cosign.key", "--insecure"]) == 0
    capsys.readouterr()
    assert verify.main([pushed, "--key=cosign.pub", "--insecure", "--json"]) == 0

    told = json.loads(capsys.readouterr().out)["provenance"]
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=clone, capture_output=True, text=True, check=True
    )
    model = read_artifact(Path(os.environ["MODEL"]).read_bytes())
    assert told["commit"] == head.stdout.strip()
    assert told["repository"] == "https://git.invalid/kiln.git"
    assert told["model"]["version"] == model.version
    assert told["model"]["dataset_digest"] == model.dataset_digest
    assert told["model"]["config_digest"] == model.config_digest
    assert told["model"]["test_accuracy"] == model.test_metrics.accuracy

    assert verify.main([pushed, "--key=cosign.pub", "--insecure"]) == 0
    assert model.version in capsys.readouterr().out.split()


def test_an_edited_workspace_is_noted_and_refused_later(
    pushed: str, clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (clone / "file").write_text("b\n")
    assert sign.main([*HIDDEN, pushed, "--key=cosign.key", "--insecure"]) == 0
    assert verify.main([pushed, "--key=cosign.pub", "--insecure"]) == 1
    assert "uncommitted changes" in capsys.readouterr().err
    assert verify.main([pushed, "--key=cosign.pub", "--insecure", "--allow-dirty"]) == 0


def test_a_log_hears_of_a_registry_that_is_slow(
    pushed: str, clone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.terminal.EVERY_S", 0.01)
    assert sign.main([*HIDDEN, pushed, "--key=cosign.key", "--insecure"]) == 0
    assert "still signing, " in capsys.readouterr().err
    assert verify.main([pushed, "--key=cosign.pub", "--insecure", "--json"]) == 0
    said = capsys.readouterr()
    assert "still checking, " in said.err
    assert json.loads(said.out)["trusted"]


def test_an_image_that_was_not_built_here_is_not_signed(
    pushed: str, clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = pushed.rpartition("@")[0] + f"@sha256:{'0' * 64}"
    assert sign.main([*HIDDEN, other, "--key=cosign.key", "--insecure"]) == 2
    assert DIGEST in capsys.readouterr().err


def test_a_refusal_is_json_too(
    pushed: str, clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify.main([pushed, "--key=cosign.pub", "--insecure", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["trusted"] is False
    assert pushed in told["reason"]


def test_a_workflow_is_named_as_the_builder() -> None:
    github = {
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_WORKFLOW_REF": "me/kiln/.github/workflows/release.yml@refs/tags/v1",
        "GITHUB_REPOSITORY": "me/kiln",
        "GITHUB_RUN_ID": "7",
    }
    assert sign.builder_and_run(github) == (
        "https://github.com/me/kiln/.github/workflows/release.yml@refs/tags/v1",
        "https://github.com/me/kiln/actions/runs/7",
    )
    assert sign.builder_and_run({}) == (sign.LOCAL_BUILDER, "")
