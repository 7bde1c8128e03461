"""Images are built for Linux on x86-64 alone, so that no other machine's wheels get into them."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.offline.worlds import BazelFile, Symbol

ROOT = Path(__file__).absolute().parents[3]
LAYERS = "//tools/image:layers.bzl"
IMAGE = Symbol("@rules_oci//oci:defs.bzl", "oci_image")
# What has the wheels of the machine that is built for, or bytes of the base, in it: the rules
# behind the macros of the same names, which set the platform.
BOUND_LAYERS = {"_packages_layer", "_base_bytecode_layer"}


def our_files() -> list[BazelFile]:
    listed = os.environ.get("BAZEL_SOURCES")
    if listed is None:
        pytest.skip("//:bazel_sources is known under Bazel only")
    return [BazelFile.parse(path, (ROOT / path).read_text("utf-8")) for path in listed.split()]


def bound_targets(file: BazelFile) -> Iterator[tuple[str, str | None]]:
    """Place and constraints of every target that is bound to one platform."""
    for call in ast.walk(file.tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            continue
        if file.loads.get(call.func.id) == IMAGE or call.func.id in BOUND_LAYERS:
            values = {keyword.arg: keyword.value for keyword in call.keywords}
            constraints = values.get("target_compatible_with")
            yield file.where(call), ast.unparse(constraints) if constraints else None


def test_every_image_and_its_bound_layers_are_for_one_platform() -> None:
    files = our_files()
    targets = [target for file in files for target in bound_targets(file)]
    files_of_targets = [where.partition(":")[0] for where, _ in targets]
    assert "tools/image/image.bzl" in files_of_targets
    assert files_of_targets.count("tools/image/layers.bzl") == len(BOUND_LAYERS)
    assert [where for where, constraints in targets if constraints != "LINUX_X86_64"] == []
    meant = {file.loads.get("LINUX_X86_64") for file in files} - {None}
    assert meant == {Symbol(LAYERS, "LINUX_X86_64")}


def test_that_platform_is_the_one_of_the_base_image() -> None:
    (layers,) = [file for file in our_files() if file.path == "tools/image/layers.bzl"]
    (constraints,) = [
        ast.literal_eval(node.value)
        for node in layers.tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LINUX_X86_64"
    ]
    assert set(constraints) == {"@platforms//cpu:x86_64", "@platforms//os:linux"}
    (module,) = [file for file in our_files() if Path(file.path) == Path("MODULE.bazel")]
    (pull,) = [
        n for n in ast.walk(module.tree) if isinstance(n, ast.keyword) and n.arg == "platforms"
    ]
    assert ast.literal_eval(pull.value) == ["linux/amd64"]


@pytest.mark.parametrize(
    ("target", "constraints"),
    [
        ('oci_image(name = "x")', None),
        ('oci_image(name = "x", target_compatible_with = [])', "[]"),
        ('oci_image(name = "x", target_compatible_with = LINUX_X86_64)', "LINUX_X86_64"),
    ],
)
def test_a_target_without_the_platform_is_seen(target: str, constraints: str | None) -> None:
    text = f'load("@rules_oci//oci:defs.bzl", "oci_image")\n{target}\n'
    assert list(bound_targets(BazelFile.parse("a/BUILD.bazel", text))) == [
        ("a/BUILD.bazel:2", constraints)
    ]
