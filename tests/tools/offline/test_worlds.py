"""Our BUILD files mean the same with the upstream modules and with tools/offline in their place."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.tools.offline.worlds import (
    PROVISIONED,
    Offline,
    Upstream,
    Use,
    World,
    dependencies,
    missing,
    read_table,
    uses_of,
)
from tools.offline.pypi_hub.distribution import read_lock

ROOT = Path(__file__).absolute().parents[3]
TABLE = read_table(Path(__file__).absolute().with_name("upstream.json"))
LOCKS = {
    "pypi": "requirements_lock.txt",
    "kiln_checks": "tools/checks/requirements_lock.txt",
    "kiln_ray": "serve/score/requirements_lock.txt",
}
LOCKED = {hub: [pin.name for pin in read_lock(ROOT / path)] for hub, path in LOCKS.items()}

UPSTREAM = Upstream(TABLE, LOCKED)
OFFLINE = Offline(ROOT / "tools" / "offline", LOCKED, ["data", "dist_info", "pkg"])
WORLDS = pytest.mark.parametrize("world", [UPSTREAM, OFFLINE], ids=["upstream", "offline"])

PY_TEST = 'load("@rules_python//python:py_test.bzl", "py_test")\n'


def our_files() -> dict[str, str]:
    """Every BUILD, MODULE and .bzl file of this repository: //:bazel_sources."""
    listed = os.environ.get("BAZEL_SOURCES")
    if listed is None:
        pytest.skip("//:bazel_sources is known under Bazel only")
    return {path: (ROOT / path).read_text(encoding="utf-8") for path in listed.split()}


@WORLDS
def test_everything_that_our_files_use_is_there(world: World) -> None:
    uses = uses_of(our_files())
    assert {use.module for use in uses} >= {"rules_python", "pypi"}
    assert missing(uses, world) == []


@WORLDS
def test_flags_of_the_bazelrc_name_only_what_is_there(world: World) -> None:
    files = [ROOT / ".bazelrc", *(ROOT / "tools/bazelrc").glob("*.bazelrc")]
    rc = "".join(file.read_text(encoding="utf-8") for file in files)
    flags = re.findall(r"--(?:no)?@(\w+)(//[\w/]*:\w+)", rc)
    assert missing([Use(".bazelrc", module, target=label) for module, label in flags], world) == []


def test_the_table_is_of_the_versions_that_we_pin() -> None:
    pinned = dependencies((ROOT / "MODULE.bazel").read_text(encoding="utf-8"))
    described = {name: module["version"] for name, module in TABLE["modules"].items()}
    assert pinned == described


def test_every_module_that_we_name_is_overridden_offline() -> None:
    pinned = dependencies((ROOT / "MODULE.bazel").read_text(encoding="utf-8"))
    rc = (ROOT / "tools/offline/offline.bazelrc").read_text(encoding="utf-8")
    overridden = set(re.findall(r"--override_module=(\w+)=", rc))
    assert pinned.keys() <= overridden | PROVISIONED


@WORLDS
@pytest.mark.parametrize(
    ("build_file", "complaint"),
    [
        (PY_TEST + 'py_test(name = "x", colour = "red")\n', "py_test colour"),
        ('load("@rules_python//python:py_test.bzl", "py_tests")\n', "py_tests"),
        ('load("@rules_python//python:py_wheel.bzl", "py_wheel")\n', "py_wheel.bzl"),
        ('load("@rules_rust//rust:defs.bzl", "rust_binary")\n', "@rules_rust"),
        ('x(deps = ["@pypi//no_such_package"])\n', "@pypi//no_such_package"),
        ('x(deps = ["@kiln_checks//torch"])\n', "@kiln_checks//torch"),
        ('x(deps = ["@pypi//torch:wheel"])\n', "@pypi//torch:wheel"),
        ('x(args = ["$(rootpath @pypi//torch:wheel)"])\n', "@pypi//torch:wheel"),
        ('x(deps = ["@rules_python//python/no:such"])\n', "@rules_python//python/no:such"),
        ('x(python = "@python_3_12_host//:python")\n', "@python_3_12_host//:python"),
        ('x(python = "@python_3_11_host//:pip")\n', "@python_3_11_host//:pip"),
    ],
)
def test_what_a_world_lacks_is_named(world: World, build_file: str, complaint: str) -> None:
    (problem,) = missing(uses_of({"some/BUILD.bazel": build_file}), world)
    assert problem.startswith("some/BUILD.bazel")
    assert complaint in problem


@WORLDS
def test_an_attribute_is_followed_through_our_macros(world: World) -> None:
    macro = (
        PY_TEST + "def our_test(name, deps = [], **kwargs):\n    py_test(name = name, **kwargs)\n"
    )
    build = 'load("//tools:our.bzl", "our_test")\nour_test(name = "x", deps = [], colour = 1)\n'
    (problem,) = missing(uses_of({"tools/our.bzl": macro, "a/BUILD.bazel": build}), world)
    assert problem == "a/BUILD.bazel:2: @rules_python//python:py_test.bzl py_test colour"


@WORLDS
def test_an_attribute_of_an_extension_is_checked(world: World) -> None:
    module = (
        'pip = use_extension("@rules_python//python/extensions:pip.bzl", "pip")\n'
        'pip.parse(hub_name = "a", colour = "red")\n'
    )
    (problem,) = missing(uses_of({"MODULE.bazel": module}), world)
    assert problem.endswith("pip parse colour")


def test_repositories_of_our_own_extensions_are_our_own_business() -> None:
    module = 'data = use_extension("//ml:x.bzl", "data")\nuse_repo(data, "cifar10")\n'
    uses = uses_of({"MODULE.bazel": module, "BUILD.bazel": 'x(srcs = ["@cifar10//:a"])\n'})
    assert uses == []
