"""bazel run //infra/terraform: what is typed, and what is answered."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from infra.terraform.main import CHANGES, main
from tests.infra.terraform.fake import fake_terraform, planned


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("KILN_TERRAFORM", str(tmp_path / "terraform"))
    for name in ("KILN_ENV", "KILN_TERRAFORM_STATE"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: str) -> tuple[int, str, str]:
    out, errors = (Console(file=StringIO(), width=140) for _ in range(2))
    code = main(arguments, out, errors)
    return code, out.file.getvalue(), errors.file.getvalue()  # type: ignore[attr-defined]


def test_a_plan_with_changes_has_an_exit_code_of_its_own(tmp_path: Path) -> None:
    """The made-up Terraform ends every command with the same code, so `init` is what fails."""
    fake_terraform(tmp_path, [planned("aws_x.y", "create")], 0)
    assert run("plan", "registry")[0] == 0
    fake_terraform(tmp_path, ["broken"], 1)
    code, _, errors = run("plan", "registry")
    assert code == 1
    assert "broken" in errors
    assert CHANGES not in (0, 1, 2)


def test_json_has_the_error_too(tmp_path: Path) -> None:
    fake_terraform(tmp_path, ["broken"], 1)
    code, out, _ = run("plan", "registry", "--json")
    assert (code, json.loads(out)["exit_code"]) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "observability"], "which environment"),
        (["plan", "github", "--var", "repository"], "expected --var NAME=VALUE"),
        (["plan", "registry", "--state", "https://x"], "expected s3://bucket/prefix"),
    ],
)
def test_bad_input_is_told_apart_from_a_refusal(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    fake_terraform(tmp_path, [], 0)
    code, _, errors = run(*arguments)
    assert code == 2
    assert words in errors


def test_outputs_alone_are_in_the_answer(tmp_path: Path) -> None:
    program = tmp_path / "terraform"
    program.write_text('#!/bin/sh\n[ "$1" = init ] || echo \'{"a": {"value": [1]}}\'\n')
    program.chmod(0o755)
    code, out, _ = run("output", "registry")
    assert (code, json.loads(out)) == (0, {"a": [1]})


def test_variables_are_json_or_text(tmp_path: Path) -> None:
    fake_terraform(tmp_path, [], 0)
    run("plan", "github", "--var", "repository=owner/name", "--var", 'environments=["dev"]')
    given = tmp_path / ".kiln/terraform/work/account/github/roots/github/given.tfvars.json"
    assert json.loads(given.read_text()) == {"repository": "owner/name", "environments": ["dev"]}


def test_nothing_is_applied_unless_somebody_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "terraform"
    program.write_text('#!/bin/sh\ncase "$1" in plan) exit 2;; apply) touch applied;; esac\n')
    program.chmod(0o755)
    monkeypatch.setattr("sys.stdin", StringIO())
    code, _, errors = run("apply", "registry")
    assert code == 2
    assert "--yes" in errors
    assert list(tmp_path.rglob("applied")) == []
    assert run("plan", "registry")[0] == CHANGES
