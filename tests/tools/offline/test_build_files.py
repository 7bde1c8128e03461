"""The BUILD files of the hub."""

from __future__ import annotations

import ast

import pytest

from tools.offline.pypi_hub.build_files import render
from tools.offline.pypi_hub.distribution import Distribution, HubError


def distribution(name: str, *requires: str, programs: tuple[str, ...] = ()) -> Distribution:
    sources = (f"{name}/__init__.py",)
    return Distribution(name, sources, (f"{name}/x.so",), (), programs, (), frozenset(requires))


def targets(build_file: str) -> dict[str, dict[str, list[str]]]:
    """Attributes by target. Starlark's calls read as Python's."""
    calls = [node.value for node in ast.parse(build_file).body if isinstance(node, ast.Expr)]
    attributes = [
        {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
        for call in calls
        if isinstance(call, ast.Call)
    ]
    return {a["name"]: a for a in attributes if "name" in a}


def site(*found: Distribution, **options: dict[str, list[str]]) -> dict[str, dict[str, list[str]]]:
    files = render({d.name: d for d in found}, options.get("cycles", {}), {})
    return targets(files["site-packages/BUILD.bazel"])


def closure(site: dict[str, dict[str, list[str]]], target: str) -> set[str]:
    reached = {target}
    for dep in site[target].get("deps", []):
        reached |= closure(site, dep.removeprefix(":"))
    return reached


def test_a_distribution_carries_its_files_and_what_it_requires_and_nothing_else() -> None:
    found = site(distribution("a", "b"), distribution("b"), distribution("torch"))

    assert found["a.files"]["srcs"] == ["a/__init__.py"]
    assert found["a.files"]["data"] == ["a/x.so", "//a:digest", "//on_disk:sitecustomize.py"]
    assert found["a.files"]["imports"] == ["."]
    assert closure(found, "a.pkg") == {"a.pkg", "a.files", "b.pkg", "b.files"}


def test_bytecode_travels_with_its_source() -> None:
    compiled = "a/__pycache__/__init__.cpython-311.pyc"
    files = render({"a": distribution("a")}, {}, {"a/__init__.py": compiled})
    assert compiled in targets(files["site-packages/BUILD.bazel"])["a.files"]["data"]


def test_the_package_has_the_labels_of_upstream() -> None:
    files = render({"a": distribution("a", programs=("bin/a",))}, {}, {})

    assert set(targets(files["a/BUILD.bazel"])) == {"a", "pkg", "data", "dist_info"}
    assert targets(files["site-packages/BUILD.bazel"])["a.data"]["srcs"] == ["//:bin/a"]
    assert files["BUILD.bazel"] == 'exports_files(["bin/a"])\n'


def test_members_of_a_declared_cycle_bring_each_other() -> None:
    found = site(
        distribution("dvc", "dvc_s3", "x"),
        distribution("dvc_s3", "dvc", "y"),
        distribution("x"),
        distribution("y"),
        cycles={"dvc": ["dvc", "dvc_s3"]},
    )
    both = {"dvc.files", "dvc_s3.files", "x.files", "y.files"}
    assert both <= closure(found, "dvc.pkg")
    assert both <= closure(found, "dvc_s3.pkg")


def test_a_cycle_that_nobody_declared_is_an_error_that_says_how_to() -> None:
    advice = r"a → b → a is a cycle.*experimental_requirement_cycles = {\"a\": \[\"a\", \"b\"\]}"
    with pytest.raises(HubError, match=advice):
        site(distribution("a", "b"), distribution("b", "a"))
