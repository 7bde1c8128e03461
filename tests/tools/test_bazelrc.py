"""Every major version of Bazel is told what it heeds; repository rules watch as Bazel 8 wants."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).absolute().parents[2]
FOLDER = ROOT / "tools/bazelrc"
MAJORS = (7, 8, 9)
# The first and the last version in which a flag changes anything, as the options' sources and the
# command-line references of 7.7.1, 8.6.0 and 9.1.0 have it. Before, it is unknown; afterwards it is
# the default, without effect, or gone.
LIFE = {
    "enable_workspace": (7, 7),
    "incompatible_autoload_externally": (8, 9),
    "incompatible_disable_autoloads_in_main_repo": (8, 8),
    "incompatible_no_implicit_watch_label": (7, 7),
    "incompatible_python_disallow_native_rules": (7, 7),
    "incompatible_use_plus_in_repo_names": (7, 7),
    "legacy_external_runfiles": (7, 7),
}


def lines_of(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def imports_of(path: Path) -> list[Path]:
    imported = [line.split()[1] for line in lines_of(path) if line.startswith("import ")]
    return [Path(place.replace("%workspace%", str(ROOT))) for place in imported]


def flags_of(path: Path) -> set[str]:
    names = re.findall(r" --(?:no)?([a-z_]+)", "\n".join(lines_of(path)))
    return set(names)


def test_bazel_on_its_own_reads_the_file_of_the_version_that_is_asked_for() -> None:
    major = (ROOT / ".bazelversion").read_text(encoding="utf-8").partition(".")[0]
    assert imports_of(ROOT / ".bazelrc") == [FOLDER / f"{major}.bazelrc"]
    assert len(lines_of(ROOT / ".bazelrc")) == 1


def test_each_major_version_has_a_file_that_ends_with_what_all_share() -> None:
    files = {path.name for path in FOLDER.iterdir()}
    assert files == {"shared.bazelrc", *(f"{major}.bazelrc" for major in MAJORS)}
    for major in MAJORS:
        path = FOLDER / f"{major}.bazelrc"
        assert imports_of(path) == [FOLDER / "shared.bazelrc"]
        assert lines_of(path)[-1].startswith("import ")
    assert lines_of(FOLDER / "shared.bazelrc")[-1] == "try-import %workspace%/.bazelrc.user"


@pytest.mark.parametrize("major", MAJORS)
def test_a_version_is_told_only_what_it_heeds(major: int) -> None:
    told = flags_of(FOLDER / f"{major}.bazelrc")
    assert told <= LIFE.keys()
    assert [flag for flag in sorted(told) if not LIFE[flag][0] <= major <= LIFE[flag][1]] == []


def test_nothing_of_limited_life_is_told_to_all_versions() -> None:
    shared = flags_of(FOLDER / "shared.bazelrc")
    assert {"sandbox_default_allow_network", "test_output", "config"} <= shared
    assert shared & LIFE.keys() == set()


def test_coverage_has_the_links_that_other_commands_do_without() -> None:
    lines = lines_of(FOLDER / "shared.bazelrc")
    assert "build --nobuild_runfile_links" in lines
    assert "coverage --build_runfile_links" in lines


# --- What changed for repository rules ------------------------------------------------------------


def labels_in(expression: ast.expr, function: ast.FunctionDef) -> set[str]:
    """Attributes of the rule: the expression itself, or what the variable goes through.

    The interpreter is none of them: another one is no reason to fetch again.
    """
    text = ast.unparse(expression)
    loops = [node for node in ast.walk(function) if isinstance(node, ast.For)]
    sources = [text, *(ast.unparse(f.iter) for f in loops if ast.unparse(f.target) == text)]
    labels = {label for source in sources for label in re.findall(r"\w+\.attr\.\w+", source)}
    return {label for label in labels if not label.endswith("._python")}


def unwatched(text: str) -> Iterator[str]:
    """Labels of which a change goes unnoticed from Bazel 8 on: turned into paths and no more."""
    for function in (n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)):
        used: dict[str, set[str]] = {"path": set(), "watch": set()}
        for call in (n for n in ast.walk(function) if isinstance(n, ast.Call)):
            if isinstance(call.func, ast.Attribute) and call.func.attr in used:
                used[call.func.attr] |= labels_in(call.args[0], function)
        yield from sorted(f"{function.name}: {label}" for label in used["path"] - used["watch"])


def test_repository_rules_watch_the_files_that_they_are_given_by_label() -> None:
    listed = os.environ.get("BAZEL_SOURCES")
    if listed is None:
        pytest.skip("//:bazel_sources is known under Bazel only")
    texts = {path: (ROOT / path).read_text("utf-8") for path in listed.split()}
    rules = {path: text for path, text in texts.items() if "repository_rule(" in text}
    # Those of tools/offline only ever run under the provisioned Bazel 7.
    ours = {path: text for path, text in rules.items() if not path.startswith("tools/offline/")}
    assert {"ml/data/repository.bzl", "tools/debian/repository.bzl"} <= ours.keys()
    assert {path: found for path, text in ours.items() if (found := list(unwatched(text)))} == {}


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("rctx.path(rctx.attr._program)", ["f: rctx.attr._program"]),
        ("for m in rctx.attr._modules:\n        rctx.path(m)", ["f: rctx.attr._modules"]),
        ("rctx.watch(rctx.attr.a)\n    rctx.path(rctx.attr.a)", []),
        ("for m in [rctx.attr.a]:\n        rctx.watch(m)\n    rctx.path(rctx.attr.a)", []),
        ('rctx.path("output")', []),
    ],
)
def test_a_label_that_is_not_watched_is_found(body: str, found: list[str]) -> None:
    assert list(unwatched(f"def f(rctx):\n    {body}\n")) == found
