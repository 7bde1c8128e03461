"""Repository rules run the toolchain's Python, so that the machine needs none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.tools.starlark import RepositoryContext, load_bzl

INTERPRETER = "@python_3_11_host//:python"  # in either world, as test_worlds checks


@pytest.mark.parametrize(
    ("file", "rule"),
    [
        ("ml/data/repository.bzl", "_cifar10_repository"),
        ("tools/debian/repository.bzl", "_debian_package"),
    ],
)
def test_a_rule_runs_the_interpreter_of_the_toolchain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, rule: str
) -> None:
    """With programs of every name on PATH, a Python of the machine among them."""
    definition = load_bzl(file)[rule]
    attributes = {
        name: default for name, default in definition.attrs.items() if name.startswith("_")
    }
    package = {"package": "lantern", "programs": [], "suite": "forky", "major": 0}
    rctx = RepositoryContext(tmp_path, {}, SimpleNamespace(**package, **attributes))
    monkeypatch.setattr(rctx, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(rctx, "path", lambda label: label)
    ran: list[Any] = []

    def execute(command: list[Any], **options: Any) -> SimpleNamespace:
        ran.append(command[0])
        return SimpleNamespace(return_code=0, stdout="", stderr="")

    monkeypatch.setattr(rctx, "execute", execute)

    definition.implementation(rctx)

    assert ran == [INTERPRETER]
    assert "KILN_PYTHON" not in definition.environ
