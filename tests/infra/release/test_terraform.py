"""The commands with the real Terraform, from nothing to nothing: plan, deploy, deploy, destroy."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from infra.release.commands import deploy, destroy, plan, rollback, status
from tests.infra.release.world import SETTINGS, World
from tests.infra.terraform.aws import ACCOUNT, REGION, WITHOUT, require_terraform
from tests.infra.terraform.provider import VARIABLE, Provider
from tests.infra.twin.cloud.functions import client

GOOD, OTHER = "a" * 64, "b" * 64


@pytest.fixture(autouse=True)
def _provider(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One process for all commands of Terraform."""
    with Provider(require_terraform(), tmp_path / "provider").attached(tmp_path) as terraform:
        monkeypatch.setenv(VARIABLE, terraform.environment[VARIABLE])
        yield


def test_from_nothing_to_nothing(world: World, tmp_path: Path) -> None:
    """One story, because every apply takes long."""
    ledger = f"kiln-{ACCOUNT}-{REGION}-ledger"
    location = {"LocationConstraint": REGION}
    client(world.cloud, "s3").create_bucket(Bucket=ledger, CreateBucketConfiguration=location)
    first, second = world.push(GOOD), world.push(OTHER)
    config = tmp_path / "dev.toml"
    config.write_text(SETTINGS)
    variables = {**WITHOUT, "failure_queue": False}
    standard = ["--env", "dev", "--config", str(config), "--state", str(tmp_path / "state")]
    for name, value in variables.items():
        standard += ["--var", f"{name}={json.dumps(value)}"]

    def run(main: Callable[..., int], *arguments: str) -> tuple[int, Any]:
        out, errors = (Console(file=io.StringIO(), width=140) for _ in range(2))
        code = main([*standard, "--json", *arguments], out, errors)
        printed: Any = out.file
        return code, json.loads(printed.getvalue())

    golden = ("--golden", str(world.golden), "--yes")
    for main in (status.main, destroy.main):
        nothing = run(main)
        assert nothing[0] == 2
        assert "was never deployed" in nothing[1]["error"]
    assert run(plan.main, "--image", first)[0] == 10

    code, made = run(deploy.main, "--image", first, *golden)
    assert (code, made.get("outcome")) == (0, "promoted"), made
    assert run(plan.main, "--image", first) == (0, {"changed": False, "counts": {}, "changes": []})

    with world.traffic() as statuses:
        code, made = run(deploy.main, "--image", second, *golden)
    assert (code, made.get("outcome")) == (0, "promoted"), made
    assert set(statuses) == {200}
    assert run(rollback.main, "--yes")[0] == 0
    shown = run(status.main)[1]
    assert shown["alias"] == {"1": 1.0}
    assert shown["versions"]["1"]["image"] == first.rpartition("@")[2]
    assert shown["url"].startswith("https://")

    code, gone = run(destroy.main, "--yes")
    assert code == 0, gone
    assert client(world.cloud, "lambda").list_functions()["Functions"] == []
    assert "never deployed" in run(status.main)[1]["error"]
