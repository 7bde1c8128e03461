"""The labels of an image, in a release build and in any other."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.tools.starlark import load_bzl

STATUS = Path("tools/workspace_status").absolute()
TITLE = {"org.opencontainers.image.title": "kiln"}
DATE = "2026-11-29T12:00:00+02:00"


class Actions:
    """What the rule asks Bazel to do, done."""

    def declare_file(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(path=name)

    def write(self, output: SimpleNamespace, content: str) -> None:
        Path(output.path).write_text(content)

    def run_shell(self, *, command: str, arguments: list[str], **_: Any) -> None:
        subprocess.run(["sh", "-euc", command, "sh", *arguments], check=True)


def labels(stamped: bool, **attributes: str) -> dict[str, str]:
    """What the rule writes in the current folder."""
    ctx = SimpleNamespace(
        actions=Actions(),
        attr=SimpleNamespace(labels=TITLE | attributes, stamped=stamped),
        info_file=SimpleNamespace(path="status"),
        label=SimpleNamespace(name="labels"),
    )
    rule = load_bzl("tools/image/labels.bzl")
    rule["DefaultInfo"] = rule["depset"] = lambda *_, **__: None
    rule["_image_labels_impl"](ctx)
    return dict(line.split("=", 1) for line in Path("labels.txt").read_text().splitlines())


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a clone with one commit."""
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_COMMITTER_DATE", DATE)
    git("init", "-q")
    git("-c", "user.name=n", "-c", "user.email=n@x", "commit", "-q", "--allow-empty", "-m", "first")
    return tmp_path


def git(*command: str) -> str:
    return subprocess.check_output(["git", *command], text=True).strip()


def stamp() -> None:
    Path("status").write_text("BUILD_USER me\n" + subprocess.check_output([STATUS], text=True))


def test_a_release_says_its_source_its_revision_and_the_commits_time(clone: Path) -> None:
    git("remote", "add", "origin", "https://github.com/me/kiln")
    stamp()
    assert labels(stamped=True) == TITLE | {
        "org.opencontainers.image.created": "2026-11-29T10:00:00Z",
        "org.opencontainers.image.revision": git("rev-parse", "HEAD"),
        "org.opencontainers.image.source": "https://github.com/me/kiln",
    }


def test_another_build_has_the_same_labels_at_every_commit(clone: Path) -> None:
    stamp()
    assert labels(stamped=False) == TITLE
    assert labels(stamped=False, other="a = b") == TITLE | {"other": "a = b"}


@pytest.mark.parametrize(
    "remote",
    [
        "git@github.com:me/kiln.git",
        "ssh://git@github.com/me/kiln.git",
        "https://me:word@github.com/me/kiln.git",  # pragma: allowlist secret: made up
    ],
)
def test_the_source_is_an_address_for_a_browser_and_holds_no_credentials(
    clone: Path, remote: str
) -> None:
    git("remote", "add", "origin", remote)
    stamp()
    found = labels(stamped=True)["org.opencontainers.image.source"]
    assert found == "https://github.com/me/kiln"


def test_a_workflow_names_its_repository(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.example.com")
    monkeypatch.setenv("GITHUB_REPOSITORY", "team/kiln")
    stamp()
    found = labels(stamped=True)["org.opencontainers.image.source"]
    assert found == "https://github.example.com/team/kiln"


def test_a_clone_without_a_remote_has_no_source(clone: Path) -> None:
    stamp()
    assert "org.opencontainers.image.source" not in labels(stamped=True)
