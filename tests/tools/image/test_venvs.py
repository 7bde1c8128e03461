"""Layers are the same with and without the virtual environments that rules_python makes."""

from __future__ import annotations

import ast
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).absolute().parents[3]


def starlark(name: str) -> Callable[[str], Any]:
    """A function of layers.bzl that needs nothing of Bazel: Python reads it the same way."""
    path = ROOT / "tools/image/layers.bzl"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
    scope: dict[str, Any] = {}
    exec(compile(tree, str(path), "exec"), scope)  # noqa: S102 # ours
    function: Callable[[str], Any] = scope[name]
    return function


def layer(variable: str) -> Path:
    path = os.environ.get(variable)
    if path is None:
        pytest.skip("layers are built by Bazel")
    return Path(path)


def test_a_venv_among_the_data_changes_no_byte_of_a_layer() -> None:
    plain = layer("PLAIN")
    with tarfile.open(plain) as archive:
        assert [m.name for m in archive if m.isfile()] == [
            "srv/tests/tools/image/__pycache__/layered.cpython-311.pyc",
            "srv/tests/tools/image/layered.py",
        ]
    assert layer("BESIDE_A_VENV").read_bytes() == plain.read_bytes()


@pytest.mark.parametrize(
    ("short_path", "place"),
    [
        ("../pypi/site-packages/numpy/__init__.py", "numpy/__init__.py"),
        ("../rules_python++pip+kiln_pypi_311_six/site-packages/six.py", "six.py"),
        ("../pypi/site-packages/pip/_vendor/site-packages/a.py", "pip/_vendor/site-packages/a.py"),
        ("../rules_python++python+python_3_11/lib/python3.11/site-packages/pip/main.py", None),
        ("../kiln_checks/_uv.venv/lib/python3.11/site-packages/uv/__init__.py", None),
        ("serve/site-packages/a.py", None),
        ("serve/aws_lambda/handler.py", None),
    ],
)
def test_only_what_a_wheels_own_repository_has_is_packed(
    short_path: str, place: str | None
) -> None:
    assert starlark("wheel_place")(short_path) == place


@pytest.mark.parametrize(
    ("short_path", "is_of_one"),
    [
        ("serve/image/_push.venv/bin/python3", True),
        ("serve/image/_push.venv/lib/python3.11/site-packages/bazel.pth", True),
        ("../checks/_uv.venv/pyvenv.cfg", True),
        ("tools/environment/venv.py", False),
        ("tools/_notes.venv", False),
        (".venv/bin/python3", False),
    ],
)
def test_a_venv_is_known_by_its_folder(short_path: str, is_of_one: bool) -> None:
    assert starlark("is_of_a_venv")(short_path) is is_of_one
