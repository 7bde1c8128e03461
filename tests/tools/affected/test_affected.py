"""Which targets a change reaches, in a real clone; Bazel's query is answered by a small graph."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tools.affected.main import TESTS, AffectedError, affected, changed_files, classify, main

FILES = {
    "BUILD.bazel": "",
    "MODULE.bazel": "",
    "README.md": "",
    "serve/BUILD.bazel": "",
    "serve/app.py": "",
    "serve/site/page.html": "",
    "tools/BUILD.bazel": "",
    "tools/rule.bzl": "",
}


def git(folder: Path, *command: str) -> str:
    """As a stranger."""
    me = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *me, *command], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A branch `main` with one commit, and `work` that starts there."""
    git(tmp_path, "init", "-q", "-b", "main")
    for name, text in FILES.items():
        write(tmp_path, name, text)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    git(tmp_path, "switch", "-qc", "work")
    return tmp_path


def write(clone: Path, name: str, text: str = "changed\n") -> None:
    path = clone / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


class Graph:
    """Answers like Bazel for a graph of two packages, and remembers what it was asked."""

    def __init__(self, loaded: bool = True) -> None:
        self.asked: list[str] = []
        self.loaded = loaded

    def __call__(self, expression: str) -> Sequence[str]:
        self.asked.append(expression)
        if expression.startswith("rbuildfiles"):
            return ["//serve:BUILD.bazel", "@elsewhere//:BUILD.bazel"] if self.loaded else []
        return ["//serve:b", "//serve:a", "//serve:a"]


def ask(clone: Path, head: str | None = None) -> tuple[list[str], str]:
    """Targets, and the last expression that Bazel was asked."""
    changes = classify(changed_files("main", head, str(clone)), lambda n: (clone / n).exists())
    graph = Graph()
    return affected(changes, graph), graph.asked[-1] if graph.asked else ""


def seeds(expression: str) -> set[str]:
    """What stands in the expression's set."""
    found = re.search(r"set\((.*?)\)", expression)
    assert found
    return set(found[1].split())


def test_nothing_changed_reaches_nothing_and_asks_nobody(clone: Path) -> None:
    assert ask(clone) == ([], "")


def test_a_changed_file_stands_for_its_label_in_the_innermost_package(clone: Path) -> None:
    write(clone, "serve/site/page.html")
    write(clone, "README.md")
    targets, expression = ask(clone)
    assert targets == ["//serve:a", "//serve:b"]
    assert seeds(expression) == {'"//serve:site/page.html"', '"//:README.md"'}


def test_a_commit_counts_as_well_as_a_file_that_git_does_not_track(clone: Path) -> None:
    write(clone, "serve/app.py")
    git(clone, "commit", "-qam", "second")
    write(clone, "serve/new.py")
    assert seeds(ask(clone)[1]) == {'"//serve:app.py"', '"//serve:new.py"'}
    assert seeds(ask(clone, "work")[1]) == {'"//serve:app.py"'}


def test_what_happened_on_main_meanwhile_does_not_count(clone: Path) -> None:
    git(clone, "switch", "-q", "main")
    write(clone, "README.md")
    git(clone, "commit", "-qam", "elsewhere")
    git(clone, "switch", "-q", "work")
    write(clone, "serve/app.py")
    assert seeds(ask(clone)[1]) == {'"//serve:app.py"'}


def test_a_deleted_file_reaches_all_of_its_package(clone: Path) -> None:
    (clone / "serve/app.py").unlink()
    assert seeds(ask(clone)[1]) == {"//serve:*"}


def test_a_moved_file_counts_at_both_ends(clone: Path) -> None:
    git(clone, "mv", "serve/app.py", "tools/app.py")
    assert seeds(ask(clone)[1]) == {"//serve:*", '"//tools:app.py"'}


def test_a_package_that_went_gives_its_files_to_the_parent(clone: Path) -> None:
    (clone / "serve/BUILD.bazel").unlink()
    assert seeds(ask(clone)[1]) == {"//:*"}


def test_a_build_file_reaches_all_of_its_package(clone: Path) -> None:
    write(clone, "serve/BUILD.bazel", "# changed\n")
    assert seeds(ask(clone)[1]) == {"//serve:*"}


def test_a_starlark_file_reaches_the_packages_that_load_it(clone: Path) -> None:
    write(clone, "tools/rule.bzl", "# changed\n")
    assert seeds(ask(clone)[1]) == {"//serve:*"}


def test_a_starlark_file_of_a_module_extension_reaches_everything(clone: Path) -> None:
    write(clone, "tools/rule.bzl", "# changed\n")
    changes = classify(changed_files("main", None, str(clone)), lambda n: (clone / n).exists())
    graph = Graph(loaded=False)
    affected(changes, graph)
    assert changes.everything == ["tools/rule.bzl"]
    assert 'kind("rule", //...)' in graph.asked[-1]


@pytest.mark.parametrize(
    "name",
    [
        "MODULE.bazel",
        ".bazelrc",
        "requirements_lock.txt",
        "tools/bazelrc/8.bazelrc",
        "tools/offline/a/b.py",
    ],
)
def test_some_files_reach_everything(clone: Path, name: str) -> None:
    write(clone, name, "# changed\n")
    write(clone, "serve/app.py")
    expression = ask(clone)[1]
    assert "rdeps" not in expression
    assert 'kind("rule", //...)' in expression


def test_tests_alone_are_asked_by_their_kind_and_manual_ones_left_out(clone: Path) -> None:
    write(clone, "serve/app.py")
    graph = Graph()
    changes = classify(changed_files("main", None, str(clone)), lambda n: (clone / n).exists())
    affected(changes, graph, TESTS)
    assert 'kind("_test rule", rdeps(' in graph.asked[0]
    assert "manual" in graph.asked[0]


def test_an_unknown_revision_is_named(clone: Path) -> None:
    with pytest.raises(AffectedError, match="nowhere"):
        changed_files("nowhere", None, str(clone))


BAZEL = """#!/bin/sh
for word; do case $word in --query_file=*) cp "${word#*=}" asked;; esac; done
echo //serve:a
exit 3
"""


@pytest.fixture
def at_work(clone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The clone as the command's workspace, with a Bazel that notes what it was asked."""
    write(clone, "tools/bazel", BAZEL)
    git(clone, "add", ".")
    git(clone, "commit", "-qm", "bazel")
    git(clone, "branch", "-qf", "main")
    (clone / "tools/bazel").chmod(0o755)
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(clone))
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(clone))
    return clone


def test_the_command_tells_json_and_writes_a_pattern_file(
    at_work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    git(at_work, "config", "core.fileMode", "false")
    write(at_work, "serve/app.py")
    assert main(["--base=main", "--json", "--output=../tests"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"files": ["serve/app.py"], "everything_by": [], "targets": ["//serve:a"]}
    assert (at_work.parent / "tests").read_text() == "//serve:a\n"
    assert '"//serve:app.py"' in (at_work / "asked").read_text()


def test_the_command_says_what_a_shallow_clone_lacks(
    at_work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--base=nowhere"]) == 2
    assert "git fetch --unshallow" in capsys.readouterr().err


def test_a_bazel_that_cannot_answer_is_no_empty_answer(
    at_work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(at_work, "tools/bazel", "#!/bin/sh\necho 'ERROR: no such package' >&2\nexit 7\n")
    write(at_work, "serve/app.py")
    assert main(["--base=main"]) == 3
    assert capsys.readouterr().out == ""
