"""infra/terraform: the runner without AWS; a program of few lines answers for Terraform."""

from __future__ import annotations

import os
import re
import subprocess
import zipfile
from collections.abc import Callable, Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from infra.terraform.program import (
    Change,
    Plan,
    Process,
    StateLocked,
    TerraformError,
    TerraformFailed,
    following,
    parse_change,
    show_plan,
)
from infra.terraform.root import (
    ENVIRONMENTS,
    ROOTS,
    Root,
    alone,
    copy_root,
    package,
    variable_files,
)
from infra.terraform.service import parse_service_outputs
from infra.terraform.state import LocalState, S3State, parse_state
from tests.helpers.waiting import wait_until
from tests.infra.terraform.fake import fake_terraform, planned

ACTIONS = ["create", "update", "replace", "delete", "move", "import", "remove"]


def root(tmp_path: Path, lines: Sequence[Any] = (), code: int = 0, width: int = 100) -> Root:
    return Root.open(
        "service",
        "dev",
        state=LocalState(tmp_path / "state"),
        work=tmp_path / "work",
        console=Console(file=StringIO(), width=width),
        installation=fake_terraform(tmp_path, lines, code),
    )


def said(root: Root) -> str:
    return root.console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def error(summary: str, **more: Any) -> dict[str, Any]:
    diagnostic = {"severity": "error", "summary": summary, "detail": "", **more}
    return {"@level": "error", "type": "diagnostic", "diagnostic": diagnostic}


# ---- Plans --------------------


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"aws_[a-z]{1,8}\.[a-z]{1,8}", fullmatch=True),
            st.sampled_from([*ACTIONS, "read", "noop"]),
        )
    )
)
def test_a_plan_has_every_change_of_aws_and_no_other(found: list[tuple[str, str]]) -> None:
    changes = [parse_change(planned(address, action)) for address, action in found]
    assert [(one.address, one.action) for one in changes if one] == [
        (address, action) for address, action in found if action in ACTIONS
    ]


@given(st.lists(st.sampled_from(ACTIONS)))
def test_counts_of_a_plan_add_up(actions: list[Any]) -> None:
    plan = Plan(Path("x"), True, tuple(Change("a.b", "a", action) for action in actions))
    assert sum(plan.counts.values()) == len(actions)
    assert set(plan.counts) == set(actions)


def test_a_plan_that_changes_says_so_by_its_exit_code(tmp_path: Path) -> None:
    lines = [planned("aws_s3_bucket.this", "replace", reason="cannot_update")]
    plan = root(tmp_path, lines, code=2).plan()
    assert plan.changed
    assert plan.changes == (
        Change("aws_s3_bucket.this", "aws_s3_bucket", "replace", "cannot update"),
    )


def test_a_plan_without_changes_is_no_error(tmp_path: Path) -> None:
    plan = root(tmp_path).plan()
    assert not plan.changed
    arguments = (tmp_path / "arguments").read_text()
    assert "-detailed-exitcode" in arguments
    assert "dev.tfvars" in arguments
    assert "dev.service.tfvars" in arguments


def test_a_table_shows_each_change_and_how_many(tmp_path: Path) -> None:
    console = Console(file=StringIO(), width=100)
    changes = (
        Change("a.b", "a", "create"),
        Change("c.d", "c", "create"),
        Change("e", "e", "delete"),
    )
    show_plan(Plan(Path("x"), True, changes), "service of dev", console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2 to create, 1 to delete" in text
    assert "c.d" in text


# ---- Errors --------------------


def test_terraforms_errors_are_told_with_their_place(tmp_path: Path) -> None:
    place = {"filename": "lambda.tf", "start": {"line": 7}}
    lines = [error("No such thing", detail="Take another.", range=place, address="aws_x.y")]
    with pytest.raises(TerraformFailed) as e:
        root(tmp_path, lines, code=1).plan()
    told = ("aws_x.y", "No such thing", "lambda.tf", "7", "Take another.")
    assert [part for part in told if part not in str(e.value)] == []


def test_an_account_that_has_nothing_to_reserve_is_told_what_to_do(tmp_path: Path) -> None:
    said = (
        "operation error Lambda: PutFunctionConcurrency, InvalidParameterValueException: Specified "
        "ReservedConcurrentExecutions for function decreases account's "
        "UnreservedConcurrentExecution below its minimum value of [10]."
    )
    with pytest.raises(TerraformFailed, match="--var reserved_concurrency=-1"):
        root(tmp_path, [error("setting concurrency", detail=said)], code=1).plan()


def test_words_that_are_no_json_are_told_too(tmp_path: Path) -> None:
    with pytest.raises(TerraformFailed, match="panic: the provider died"):
        root(tmp_path, ["panic: the provider died"], code=11).plan()
    with pytest.raises(TerraformFailed) as halted:
        root(tmp_path, ["execution halted"] * 9, code=1).plan()
    assert str(halted.value).count("execution halted") == 1


def test_without_registry_and_mirror_it_says_what_to_do(tmp_path: Path) -> None:
    lines = [error("Failed to query available provider packages", detail="no such host")]
    with pytest.raises(TerraformFailed, match="KILN_TERRAFORM_PLUGINS"):
        root(tmp_path, lines, code=1).init()


def test_a_locked_state_says_how_to_free_it(tmp_path: Path) -> None:
    lines = [error("Error acquiring the state lock", detail="Lock Info:\n  ID: 1234")]
    with pytest.raises(StateLocked, match=r"1234(.|\n)*force-unlock"):
        root(tmp_path, lines, code=1).plan()


def test_warnings_are_shown_and_no_error(tmp_path: Path) -> None:
    diagnostic = {"severity": "warning", "summary": "Old argument", "detail": "Use [the] other."}
    lines = [{"@level": "warn", "type": "diagnostic", "diagnostic": diagnostic}]
    made = root(tmp_path, lines)
    made.plan()
    assert "Old argument: Use [the] other." in said(made)


def test_a_log_hears_of_a_resource_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.terminal.EVERY_S", 0.01)
    file = StringIO()
    hook = {"resource": {"addr": "aws_x.y", "resource": "aws_x.y"}, "action": "create"}
    with following(Console(file=file, width=100), "applying [it]") as follow:
        follow({"@level": "info", "type": "apply_start", "hook": hook})
        wait_until(
            lambda: re.search(r"still applying \[it\], \d+ s  creating aws_x.y\n", file.getvalue())
        )


@pytest.mark.parametrize("ask", [Root.outputs, Root.show, Root.validate])
def test_a_log_hears_of_questions_that_take_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Root], object]
) -> None:
    monkeypatch.setattr("common.terminal.EVERY_S", 0.01)
    made = root(tmp_path)

    def slow(*_: object) -> str:
        wait_until(lambda: "still" in said(made))
        return "{}"

    monkeypatch.setattr(Process, "text", slow)
    ask(made)
    assert "service of dev, 0 s" in said(made)


def test_each_resource_that_is_done_has_a_line(tmp_path: Path) -> None:
    hook = {"resource": {"addr": "aws_x.y", "resource": "aws_x.y"}, "action": "create"}
    lines = [
        {"@level": "info", "type": "apply_start", "hook": hook},
        {"@level": "info", "type": "apply_complete", "hook": {**hook, "elapsed_seconds": 3}},
    ]
    made = root(tmp_path, lines)
    plan = Plan(made.process.folder / "apply.tfplan", True, ())
    plan.file.touch()
    made.apply(plan)
    assert "+ aws_x.y  3 s" in said(made)
    assert not plan.file.exists(), "a plan holds values, and is of no more use"


@pytest.mark.parametrize(
    ("name", "environment", "words"),
    [("services", "dev", "there are state, registry"), ("service", "test", "there are account")],
)
def test_an_unknown_root_or_environment_is_told_the_known(
    tmp_path: Path, name: str, environment: str, words: str
) -> None:
    with pytest.raises(TerraformError, match=words):
        Root.open(name, environment, state=LocalState(tmp_path), work=tmp_path)


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(TerraformError, match="another process"), alone(tmp_path):
        raise AssertionError("both are in")


def test_a_child_that_was_started_meanwhile_does_not_keep_the_folder(tmp_path: Path) -> None:
    """Between fork and exec it has all files of its parent, whichever thread starts it."""
    reading, writing = os.pipe()
    with alone(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)  # until the parent closes its end
            os._exit(0)
    try:
        with alone(tmp_path):
            pass
    finally:
        os.close(writing)
        os.close(reading)
        os.waitpid(child, 0)


# ---- States --------------------


@given(
    st.from_regex(r"[a-z][a-z0-9-]{2,20}", fullmatch=True),
    st.from_regex(r"([a-z0-9]{1,5}(/[a-z0-9]{1,5}){0,2})?", fullmatch=True),
)
def test_an_s3_url_is_a_bucket_and_a_prefix(bucket: str, prefix: str) -> None:
    assert parse_state(f"s3://{bucket}/{prefix}") == S3State(bucket, prefix or "terraform")


def test_a_path_is_a_folder() -> None:
    assert parse_state("some/where") == LocalState(Path("some/where"))


@pytest.mark.parametrize("text", ["", "s3://", "https://example.org/state"])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(TerraformError, match="expected s3://bucket/prefix or a folder"):
        parse_state(text)


def test_no_two_roots_or_environments_share_a_state(tmp_path: Path) -> None:
    keys = {
        tuple(S3State("bucket").options(root, environment, tmp_path))
        for root in ROOTS
        for environment in ENVIRONMENTS
    }
    assert len(keys) == len(ROOTS) * len(ENVIRONMENTS)


def test_a_bucket_after_a_folder_leaves_nothing_of_the_folder(tmp_path: Path) -> None:
    LocalState(tmp_path / "state").options("service", "dev", tmp_path)
    assert [path.name for path in tmp_path.glob("*.tf.json")] == ["state_override.tf.json"]
    S3State("bucket").options("service", "dev", tmp_path)
    assert list(tmp_path.glob("*.tf.json")) == []


# ---- Sources --------------------


@pytest.mark.parametrize("name", ROOTS)
def test_a_copied_root_is_whole_and_may_be_written(tmp_path: Path, name: str) -> None:
    folder = copy_root(name, tmp_path, {})
    copied = {path.name for path in folder.iterdir()}
    assert {"terraform.tf", "providers.tf", "variables.tf", "outputs.tf", "main.tf"} <= copied
    assert (tmp_path / "modules/alarms/dashboard.json.tftpl").is_file()
    (folder / "variables.tf").write_text("")


def test_a_second_copy_forgets_files_that_are_gone(tmp_path: Path) -> None:
    folder = copy_root("service", tmp_path, {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"})
    (folder / "old.tf").touch()
    (folder / "apply.tfplan").touch()
    assert (folder / "endpoint_override.tf.json").exists()
    copy_root("service", tmp_path, {})
    assert not (folder / "old.tf").exists()
    assert not (folder / "endpoint_override.tf.json").exists()
    assert (folder / "apply.tfplan").exists(), "Terraform's own files stay"


def test_special_values_come_after_general_ones() -> None:
    assert [path.name for path in variable_files("service", "prod")] == [
        "prod.tfvars",
        "prod.service.tfvars",
    ]


def test_a_function_is_packed_to_the_same_bytes_at_any_time(tmp_path: Path) -> None:
    (tmp_path / "b.py").write_text("b = 1\n")
    (tmp_path / "a.py").write_text("a = 1\n")
    first = package(tmp_path)
    (tmp_path / "a.py").touch()
    subprocess.run(["touch", "-d", "2001-02-03", tmp_path / "b.py"], check=True)
    assert package(tmp_path) == first
    assert zipfile.ZipFile(BytesIO(first)).namelist() == ["a.py", "b.py"]


def test_outputs_of_a_root_that_was_never_applied_say_so() -> None:
    with pytest.raises(TerraformError, match="apply it first"):
        parse_service_outputs({})
