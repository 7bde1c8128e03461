"""Shadow traffic finds out where two versions disagree, and callers do not notice."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from infra.release.commands import shadow as command
from infra.release.commands.shadow import Pair, ShadowResponse, compare, sampled
from tests.infra.release.world import World
from tests.infra.twin.cloud.functions import client, publish

GOOD, OTHER = "a" * 64, "b" * 64


def requests(folder: Path, count: int) -> Path:
    path = folder / "requests.jsonl"
    documents = [{"image": base64.b64encode(f"cat:{n}".encode()).decode()} for n in range(count)]
    path.write_text("".join(f"{json.dumps(document)}\n" for document in documents))
    return path


def test_a_version_without_traffic_is_compared_by_the_log(world: World, tmp_path: Path) -> None:
    world.create(world.push(GOOD))
    candidate = publish(world.cloud, world.push(OTHER, wrong=0.5), world.name)
    file = requests(tmp_path, 60)
    # As Terraform sets them for the alias; moto keeps one configuration for all qualifiers.
    client(world.cloud, "lambda").put_function_event_invoke_config(
        FunctionName=world.name, Qualifier="live", MaximumRetryAttempts=0
    )
    with world.traffic() as statuses:
        result = world.run(
            command.main,
            *("--candidate", candidate, "--requests", str(file), "--rate", "100"),
            *("--wait", "10", "--most", "0.1"),
        )
    assert result.code == 1
    assert (result.data["sent"], result.data["answered"]) == (60, 60)
    assert 0.2 < result.data["share"] < 0.8
    assert [pair[:2] for pair in result.data["pairs"]] == [["cat", "dog"]]
    assert set(statuses) == {200}
    assert world.alias() == {"1": 1.0}
    calls = (world.cloud.folder / "requests.log").read_text("utf-8")
    for version in ("1", candidate):  # asked by number, and retried as callers of the alias are
        assert re.search(rf"PUT \S+/event-invoke-config\?Qualifier={version} ", calls)


def test_a_line_that_is_no_request_is_named(world: World, tmp_path: Path) -> None:
    world.create(world.push(GOOD))
    path = tmp_path / "requests.jsonl"
    for line in (b'{"image": 3}', b"\xff\xfe"):
        path.write_bytes(b'{"image": "Y2F0OjE="}\n' + line)
        result = world.run(command.main, "--candidate", "1", "--requests", str(path), "--wait", "1")
        assert (result.code, "line 2: expected" in result.data["error"]) == (2, True)


def test_a_version_that_is_not_there_is_named(world: World) -> None:
    world.create(world.push(GOOD))
    result = world.run(command.main, "--candidate", "9")
    error = f"version 9 of {world.name} does not exist: there are 1"
    assert (result.code, result.data["error"]) == (2, error)


@pytest.mark.parametrize(
    ("option", "value"), [("--rate", "0"), ("--wait", "inf"), ("--share", "1.5"), ("--most", "nan")]
)
def test_a_number_that_makes_no_sense_is_refused(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["--env", "dev", "--candidate", "1", option, value], Console(), Console())
    last = capsys.readouterr().err.splitlines()[-1]
    assert {option, value} <= set(re.split(r"[\s:,]+", last))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_sample_is_an_even_part(share: float) -> None:
    images = [str(number).encode() for number in range(2000)]
    taken = list(sampled(images, share))
    assert taken == list(sampled(images, share))
    assert abs(len(taken) / 2000 - share) < 0.05


answers = st.builds(
    ShadowResponse,
    st.sampled_from(["cat", "dog", None]),
    st.floats(0, 1),
    st.floats(0, 1),
    st.booleans(),
)


@given(st.lists(st.builds(Pair, answers, answers), max_size=20))
def test_every_request_is_accounted_for(pairs: list[Pair]) -> None:
    found = compare(pairs)
    assert found.sent == len(pairs)
    assert found.answered <= found.sent
    assert found.agreed + found.apart + max(found.failed) <= found.answered
    assert found.answered <= found.agreed + found.apart + sum(found.failed)
    assert found.apart == sum(count for _, _, count in found.pairs)
    assert 0 <= found.share <= 1
