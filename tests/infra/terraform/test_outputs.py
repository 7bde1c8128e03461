"""Outputs are read from a state where Terraform left it, and no Terraform is asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import NoReturn

import pytest
from rich.console import Console

from infra.terraform.program import TerraformError
from infra.terraform.root import Root, alone
from infra.terraform.service import TerraformService, read_outputs
from infra.terraform.state import LocalState, S3State, State
from infra.twin.cloud.cloud import Cloud
from tests.infra.twin.cloud.functions import Functions, client

STATE = json.dumps({"version": 4, "outputs": {"function_name": {"value": "kiln-dev"}}})


def test_a_folder_has_the_state_of_each_root(tmp_path: Path) -> None:
    state = LocalState(tmp_path)
    assert read_outputs("service", "dev", state) == {}
    Path(state.place("service", "dev")).write_text(STATE)
    assert read_outputs("service", "dev", state) == {"function_name": "kiln-dev"}
    assert read_outputs("service", "prod", state) == {}


def test_a_plan_that_names_no_watcher_keeps_the_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CI names its image; whoever plans by hand would take it away. Variables come later."""
    seen: list[Mapping[str, str]] = []

    def note(*_: object, environ: Mapping[str, str], **__: object) -> NoReturn:
        seen.append(environ)
        raise TerraformError("seen")

    monkeypatch.setattr(Root, "open", note)
    state, console = LocalState(tmp_path), Console(file=StringIO())
    service = TerraformService("dev", state, tmp_path, {}, console)
    for outputs in ({}, {"watcher_image_uri": {"value": "host/kiln@sha256:1"}}):
        document = {"version": 4, "outputs": outputs}
        Path(state.place("service", "dev")).write_text(json.dumps(document))
        with pytest.raises(TerraformError, match="seen"):
            service.plan("host/kiln@sha256:2")
    assert [environ.get("TF_VAR_watcher_image_uri") for environ in seen] == [
        None,
        "host/kiln@sha256:1",
    ]


def test_a_bucket_has_the_state_of_each_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Cloud(tmp_path, Functions(tmp_path).launch) as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        state, s3 = S3State("states", "kiln"), client(cloud, "s3")
        with pytest.raises(TerraformError, match=r"s3://states/kiln/dev/service.tfstate cannot be"):
            read_outputs("service", "dev", state)
        location = {"LocationConstraint": cloud.region}
        s3.create_bucket(Bucket="states", CreateBucketConfiguration=location)
        assert read_outputs("service", "dev", state) == {}
        s3.put_object(Bucket="states", Key="kiln/dev/service.tfstate", Body=STATE)
        assert read_outputs("service", "dev", state) == {"function_name": "kiln-dev"}


def test_a_terraform_at_work_keeps_nobody_from_reading(tmp_path: Path) -> None:
    state = LocalState(tmp_path / "state")
    state.folder.mkdir()
    Path(state.place("service", "dev")).write_text(STATE)
    with alone(tmp_path / "work" / "dev" / "service"):
        assert read_outputs("service", "dev", state) == {"function_name": "kiln-dev"}


def test_a_state_that_is_being_written_is_read_once_it_is_whole(tmp_path: Path) -> None:
    state = LocalState(tmp_path)
    file = Path(state.place("service", "dev"))
    file.write_text(STATE[:20])
    writer = threading.Timer(0.1, lambda: file.write_text(STATE))
    writer.start()
    assert read_outputs("service", "dev", state) == {"function_name": "kiln-dev"}
    writer.join()


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"version": 3}'])
def test_what_is_no_state_is_named(tmp_path: Path, text: str) -> None:
    state: State = LocalState(tmp_path)
    Path(state.place("service", "dev")).write_text(text)
    with pytest.raises(TerraformError, match=r"dev-service\.tfstate"):
        read_outputs("service", "dev", state)


def test_a_place_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TerraformError, match="cannot be read"):
        read_outputs("service", "dev", LocalState(tmp_path / "file"))
