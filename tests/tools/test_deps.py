"""What a target imports, it or its dependencies declare: read from the BUILD files and the sources.

Tests of a folder share a process, where a library could use what only its neighbours declare. So
each target is looked at by itself, and without running anything.
"""

from __future__ import annotations

import ast
import os
import sys
from functools import cache

import pytest

from tests.tools.starlark import ROOT, Target, read_targets

OURS = ("benchmarks", "common", "configs", "infra", "ml", "serve", "tests", "tools")
KINDS = ("py_library", "py_binary", "py_test", "pytest_test")
OTHER_MODULES = ("tools/offline/rules_", "tools/offline/stubs/")

# Distributions whose name is not that of their module.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "botocore": "boto3",  # which requires it
    "cyclonedx": "cyclonedx_python_lib",
    "detect_secrets": "bc_detect_secrets",  # pragma: allowlist secret: name of a package
    "google": "protobuf",
    "griffe": "griffelib",
    "grpc": "grpcio",
    "hydra": "hydra_core",
    "mlflow": "mlflow_skinny",
    "sklearn": "scikit_learn",
    "yaml": "pyyaml",
}
# Of a file, what whoever runs it brings along.
BROUGHT = {
    "infra/terraform/modules/slack/function/slack.py": {"boto3"},  # Lambda's runtime
    "tools/coverage/measure.py": {"coverage"},  # if coverage is measured
    "serve/score/main.py": {"serve/score/cluster.py"},  # //serve:score_on_ray
    "ml/stages.py": {  # whoever trains or reports: an export is not keyed by it
        "ml/report/page.py",
        "ml/training/config.py",
        "ml/training/fitting.py",
        "ml/training/launch.py",
    },
    "common/programs.py": {"pytest"},  # a test, to be skipped
    "tools/offline/pypi_hub/distribution.py": {"packaging"},  # the lock that it installs
    "tools/pytest_main.py": {"hypothesis"},  # a test that uses it
}


def _targets() -> dict[str, Target]:
    targets: dict[str, Target] = {}
    listed = os.environ.get("BAZEL_SOURCES")
    files = listed.split() if listed else [str(path) for path in ROOT.glob("[a-z]*/**/BUILD.bazel")]
    for name in files:
        path = ROOT / name
        inside = path.relative_to(ROOT).as_posix()
        if path.name == "BUILD.bazel" and not inside.startswith((*OTHER_MODULES, "bazel-")):
            targets |= read_targets(path)
    return targets


TARGETS = _targets()


@cache
def closure(label: str) -> frozenset[str]:
    """Files of ours and distributions that come with a target."""
    target = TARGETS.get(label)
    if target is None:
        hub, _, name = label.partition("//")
        return frozenset({name.partition(":")[0]} if hub else ())
    deps = target.labels("actual" if target.kind == "alias" else "deps")
    if target.kind == "pytest_test":
        deps = [*deps, "//tools:pytest_runtime"]
    return frozenset(target.files).union(*map(closure, deps))


@cache
def imported(path: str) -> frozenset[str]:
    """Files of ours and top-level modules that a file imports, for its types alone excepted."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(filter(None, (_provider(alias.name) for alias in node.names)))
        elif isinstance(node, ast.ImportFrom):
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found.update(filter(None, map(_provider, names)))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse((ROOT / path).read_text(encoding="utf-8")))
    return frozenset(found)


def _provider(module: str) -> str | None:
    top = module.partition(".")[0]
    if top not in OURS:
        return None if top in sys.stdlib_module_names or top == "__future__" else top
    whole = module.replace(".", "/")
    for path in (f"{whole}.py", f"{whole.rpartition('/')[0]}.py"):
        if (ROOT / path).is_file():
            return path
    return None


def _is_there(needed: str, there: frozenset[str]) -> bool:
    name = DISTRIBUTIONS.get(needed, needed).lower()
    return name in there or any(one.startswith(f"{name}_") for one in there)


def missing(label: str) -> list[str]:
    target, there = TARGETS[label], closure(label)
    of_tests = target.package.startswith("tests") or target.attributes.get("testonly")
    brought = {"pytest"} if of_tests else set()
    return [
        f"{path} imports {needed}"
        for path in target.files
        for needed in sorted(imported(path) - brought - BROUGHT.get(path, set()))
        if not _is_there(needed, there)
    ]


@pytest.mark.parametrize("folder", [name for name in OURS if name != "configs"])
def test_a_target_declares_what_it_imports(folder: str) -> None:
    labels = [label for label, target in TARGETS.items() if target.kind in KINDS]
    mine = [label for label in labels if label.startswith((f"//{folder}:", f"//{folder}/"))]
    assert len(mine) > 5  # or the BUILD files were not read
    lacking = {label: missing(label) for label in mine}
    assert {label: what for label, what in lacking.items() if what} == {}


def test_every_file_of_tests_is_in_a_target() -> None:
    run = {path for t in TARGETS.values() if t.kind == "pytest_test" for path in t.files}
    there = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/**/test_*.py")}
    assert len(there) > 200
    assert there - run == set()


def test_what_is_not_declared_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Target(
        "py_library", "tools", {"name": "undeclared", "srcs": ["ci_summary.py", "lock.py"]}
    )
    monkeypatch.setitem(TARGETS, "//tools:undeclared", ours)
    assert missing("//tools:undeclared") == [
        "tools/lock.py imports common/programs.py",
        "tools/lock.py imports packaging",
    ]
