"""A first deploy whose Terraform failed half-way: what it made can be destroyed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from infra.release.commands import destroy, status
from infra.terraform.program import Change, Plan
from infra.terraform.service import ServiceOutputs, TerraformService
from infra.terraform.state import LocalState
from tests.infra.release.world import World

ARGUMENTS = ["--env", "dev", "--json", "--yes"]


class _HalfMade:
    """A queue, and nothing that a release could go to."""

    def __init__(self, *things: str) -> None:
        self.things = list(things)

    def outputs(self) -> ServiceOutputs | None:
        return None

    def stateless_name(self) -> str | None:
        return None

    def plan(self, image_uri: str) -> Plan:
        raise NotImplementedError

    def apply(self, image_uri: str) -> ServiceOutputs:
        raise NotImplementedError

    def plan_destruction(self) -> Plan:
        changes = tuple(Change(thing, thing.split(".")[0], "delete") for thing in self.things)
        return Plan(Path("none"), bool(changes), changes, destroys=True)

    def destroy(self) -> None:
        self.things.clear()


def run(command: Any, infrastructure: _HalfMade, *arguments: str) -> tuple[int, dict[str, Any]]:
    out, errors = (Console(file=io.StringIO(), width=140) for _ in range(2))
    code = command.main(
        [*ARGUMENTS, *arguments], out, errors, lambda options, terminal: infrastructure
    )
    printed: Any = out.file
    return code, json.loads(printed.getvalue())


@pytest.fixture
def half_made() -> _HalfMade:
    return _HalfMade("aws_sqs_queue.failures")


def test_outputs_of_an_apply_that_failed_are_none(tmp_path: Path) -> None:
    state = LocalState(tmp_path)
    document = {"version": 4, "outputs": {"function_name": {"value": "kiln-dev"}}}
    Path(state.place("service", "dev")).write_text(json.dumps(document))
    service = TerraformService("dev", state, tmp_path / "work", {}, Console(file=io.StringIO()))
    assert service.outputs() is None
    assert service.stateless_name() is None
    elsewhere = TerraformService(
        "prod", state, tmp_path / "work", {"project": "cats"}, Console(file=io.StringIO())
    )
    assert elsewhere.stateless_name() == "cats-prod"


def test_an_empty_state_beside_a_function_that_exists_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.create(world.push("a" * 64))
    monkeypatch.setattr(world.infrastructure, "outputs", lambda: None)
    monkeypatch.setattr(world.infrastructure, "stateless_name", lambda: world.name)
    found = world.deploy(world.push("b" * 64))
    assert (found.code, "KILN_TERRAFORM_STATE" in found.data["error"]) == (1, True)
    assert (world.versions()[-1], world.alias()) == ("1", {"1": 1.0})


def test_what_was_made_can_be_destroyed(half_made: _HalfMade) -> None:
    assert run(destroy, half_made, "--dry-run")[0] == 0
    assert half_made.things == ["aws_sqs_queue.failures"]
    code, said = run(destroy, half_made)
    assert (code, [one["address"] for one in said["destroyed"]]) == (0, ["aws_sqs_queue.failures"])
    assert half_made.things == []


def test_nothing_to_destroy_and_nothing_to_look_at_say_so(half_made: _HalfMade) -> None:
    half_made.things.clear()
    for command in (destroy, status):
        code, said = run(command, half_made)
        assert code == 2
        assert "//infra:deploy -- --env dev" in said["error"]
