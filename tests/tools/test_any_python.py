"""What runs before there is a Bazel works on every Python from 3.9 on."""

from __future__ import annotations

import ast
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.apt_repository import (
    MISSING,
    SUITE,
    WHY_SKIPPED,
    AptRepository,
    apt_config,
    served,
    signer,
    ubuntu,
)
from tests.tools.workspace import PATH, Workspace
from tools.provision import wrapper

ROOT = Path(wrapper.__file__).absolute().parents[2]
OLDEST = (3, 9)
SOURCES = sorted([*ROOT.glob("tools/provision/*.py"), ROOT / "tools/ci_summary.py"])
# Of the standard library, by the name that a file would use.
NEWER = {
    *("tomllib", "file_digest", "pairwise", "batched", "UTC", "StrEnum", "ExceptionGroup"),
    *("add_note", "bit_count", "chdir", "walk", "TaskGroup", "timeout_at", "is_junction"),
    *("slots", "kw_only", "strict", "root_dir", "TypeAlias", "ParamSpec", "Self", "override"),
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_sources_are_python_3_9(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=OLDEST)

    assert sorted(_used_names(tree) & NEWER) == []
    assert any(
        isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body
    )


def _used_names(tree: ast.AST) -> set[str]:
    """Modules, attributes, imported names and keywords."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Attribute):
            if not (
                isinstance(node.value, ast.Name) and (node.value.id, node.attr) == ("os", "walk")
            ):
                names.add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg:
            names.add(node.arg)
        elif isinstance(node, ast.Name):
            names.add(node.id)
    return names


@pytest.mark.parametrize(
    "text",
    [
        "match a:\n    case 1: pass\n",
        "import tomllib\n",
        "from datetime import UTC\n",
        "zip(a, b, strict=True)\n",
        "Path().walk()\n",
    ],
)
def test_what_is_newer_is_noticed(text: str) -> None:
    try:
        tree = ast.parse(text, feature_version=OLDEST)
    except SyntaxError:
        return
    assert _used_names(tree) & NEWER


def _interpreters() -> Iterator[str]:
    """One of every version that is somewhere on this machine, behind any shim."""
    versions = Path(pwd.getpwuid(os.getuid()).pw_dir, ".pyenv/versions")
    for minor in range(OLDEST[1], 20):
        places = [*map(Path, PATH.split(os.pathsep)), *versions.glob(f"3.{minor}.*/bin")]
        found = (real for place in places if (real := _real(place / f"python3.{minor}")))
        yield from [next(found, "")]


def _real(path: Path) -> str:
    """The interpreter that ``path`` starts, empty if it starts none."""
    if not path.is_file():
        return ""
    code = "import sys; print(sys._base_executable)"
    return subprocess.run([path, "-I", "-c", code], capture_output=True, text=True).stdout.strip()


@pytest.fixture(
    params=sorted({sys.executable, *filter(None, _interpreters())}),
    ids=lambda path: Path(path).name,
)
def python(request: pytest.FixtureRequest) -> str:
    path: str = request.param
    return path


def test_it_finds_a_bazel_on_the_path(python: str, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, python)
    workspace.fake("bazel")

    code, out, error = workspace.run("info")

    assert (code, error) == (7, "")
    assert out.startswith("this is bazel\n<info>\n")


def test_it_hands_over_to_the_python_3_11_on_the_path(python: str, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, python)
    (workspace.bin / "python3.11").symlink_to(sys._base_executable)  # type: ignore[attr-defined]
    workspace.provisioned()

    code, out, error = workspace.run("info")

    assert (code, error) == (7, "")
    assert out.startswith("this is provisioned\n")


@pytest.mark.skipif(bool(MISSING), reason=WHY_SKIPPED)
def test_it_says_in_one_line_what_it_cannot_bring(python: str, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, python)
    workspace.limit_s = 120.0
    for name in ("apt-get", "apt-config", "dpkg-deb"):
        workspace.program(name)

    with ubuntu(tmp_path) as sources:
        config = apt_config(tmp_path, sources)
        code, _, error = workspace.run("info", APT_CONFIG=str(config), KILN_BAZEL="offline")

    assert (code, error.count("error")) == (1, 1), error
    assert wrapper.INSTALL_ONLINE in error.splitlines()[-1]


@pytest.mark.skipif(bool(MISSING), reason=WHY_SKIPPED)
def test_it_fetches_checks_and_unpacks_packages(python: str, tmp_path: Path) -> None:
    with signer() as key:
        archive = AptRepository(tmp_path / "archive")
        archive.add("lantern", {"usr/bin/lantern": "light\n"}, depends="wick")
        archive.add("wick", {"usr/share/wick": "cotton\n"})
        archive.publish(key)
        with served(archive) as server:
            done = subprocess.run(
                [
                    *(python, "-I", "-S", "-B", str(ROOT / "tools/provision/debian.py"), "unpack"),
                    *("--mirror", server.url, "--keyring", str(key.keyring), "--suite", SUITE),
                    *("--packages", "lantern", "--closure", "--output", str(tmp_path / "root")),
                ],
                env={"PATH": PATH, "KILN_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)},
                capture_output=True,
                text=True,
            )

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "root/usr/share/wick").read_text() == "cotton\n"


def test_an_older_python_is_passed_over(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.fake("bazel")
    workspace.script("python3", "#!/bin/sh\nexit 1\n")  # what the question for 3.9 exits with

    code, out, error = workspace.run("info")
    assert (code, out) == (1, "")
    assert "3.9" in error

    (workspace.bin / "python3.12").symlink_to(sys._base_executable)  # type: ignore[attr-defined]
    assert workspace.run("info")[1].startswith("this is bazel\n")
