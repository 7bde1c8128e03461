"""ml/registry/commands.py: W&B is told, and whatever it answers is no failure."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ml.registry.commands import mirror
from ml.registry.registry import Registry
from tests.ml.registry.artifacts import artifact


class FakeArtifact:
    def __init__(self, name: str, type: str, metadata: dict[str, Any]) -> None:
        self.name, self.type, self.metadata = name, type, metadata
        self.data = b""

    def add_file(self, path: str) -> None:
        self.data = Path(path).read_bytes()


class FakeWandb:
    """Keeps what it is told."""

    Artifact = FakeArtifact
    Settings = SimpleNamespace

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.logged: list[tuple[FakeArtifact, list[str]]] = []

    def init(self, **options: Any) -> "FakeWandb":
        self.options = options
        return self

    def __enter__(self) -> "FakeWandb":
        return self

    def __exit__(self, *_: object) -> None:
        """Finished."""

    def log_artifact(self, artifact: FakeArtifact, aliases: list[str]) -> None:
        self.logged.append((artifact, aliases))


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return fake


def test_a_version_becomes_an_artifact_with_its_aliases(wandb: FakeWandb, tmp_path: Path) -> None:
    manifest, _ = Registry.open(str(tmp_path / "registry")).register(artifact())
    said = mirror(manifest, artifact(), ["champion"], "kiln")
    assert said == "mirrored to W&B project kiln (offline)"
    ((logged, aliases),) = wandb.logged
    assert (logged.name, logged.type, logged.data) == ("pebbles", "model", artifact())
    assert logged.metadata["git_revision"] == "a" * 40
    assert aliases == [manifest.version[:12], "champion"]
    assert wandb.options["dir"] == str(tmp_path / ".kiln")


def test_its_files_stay_in_the_workspace_and_it_says_nothing_itself(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, _ = Registry.open(str(tmp_path / "registry")).register(artifact())
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(tmp_path / "not" / "yet"))
    for _ in range(2):
        assert mirror(manifest, artifact(), [], "kiln").startswith("mirrored")
        assert Path(wandb.options["dir"]).is_dir()
    assert (wandb.options["settings"].silent, wandb.options["settings"].console) == (True, "off")


def test_a_key_means_online(wandb: FakeWandb, tmp_path: Path, monkeypatch: Any) -> None:
    manifest, _ = Registry.open(str(tmp_path / "registry")).register(artifact())
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert mirror(manifest, artifact(), [], "kiln").endswith("(online)")


def test_an_outage_is_told_and_is_no_error(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, _ = Registry.open(str(tmp_path / "registry")).register(artifact())

    def fail(**_: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(wandb, "init", fail)
    said = mirror(manifest, artifact(), [], "kiln")
    assert said == "not mirrored to W&B: ConnectionError: no route to host"
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "not mirrored to W&B: " in mirror(manifest, artifact(), [], "kiln")
