"""The alias goes where a release wants it, unless somebody else was faster."""

from __future__ import annotations

import pytest

from infra.release.aws.clients import Aws
from infra.release.aws.function import LambdaFunction
from infra.release.errors import LeaseLost, ReleaseError
from infra.release.rollout.traffic import move, wanted_alias
from tests.infra.release.world import World
from tests.infra.twin.cloud.functions import client, publish


@pytest.fixture
def function(world: World) -> LambdaFunction:
    """With three versions, of which callers get the first."""
    world.create(world.push("a" * 64))
    for model in "bc":
        publish(world.cloud, world.push(model * 64), world.name)
    return LambdaFunction(Aws(), world.name, "live")


def by_hand(world: World, version: str) -> None:
    client(world.cloud, "lambda").update_alias(
        FunctionName=world.name, Name="live", FunctionVersion=version
    )


def test_an_alias_is_moved_and_one_that_is_there_already_is_left(function: LambdaFunction) -> None:
    for _ in range(2):
        move(function, wanted_alias("1", "2", 0.25), {"1", "2"}, check=lambda: None)
        assert function.alias().weights == {"1": 0.75, "2": 0.25}
    revision = function.alias().revision
    move(function, wanted_alias("1", "2", 0.25), {"1", "2"}, check=lambda: None)
    assert function.alias().revision == revision


def test_who_moves_it_between_a_look_and_a_move_has_it(
    world: World, function: LambdaFunction
) -> None:
    with pytest.raises(LeaseLost):
        move(function, wanted_alias("1", "2", 0.5), {"1", "2"}, check=lambda: by_hand(world, "3"))
    assert function.alias().weights == {"3": 1.0}


def test_a_move_whose_answer_was_lost_is_nobody_elses(function: LambdaFunction) -> None:
    """boto3 sends it again, by when the alias is no longer what was read."""
    seen = function.alias()
    for _ in range(2):
        function.point("1", {"2": 0.5}, seen=seen)
    assert function.alias().weights == {"1": 0.5, "2": 0.5}
    with pytest.raises(LeaseLost):
        function.point("3", {}, seen=seen)


def test_an_alias_at_a_version_that_the_release_does_not_know_is_left(
    world: World, function: LambdaFunction
) -> None:
    by_hand(world, "3")
    with pytest.raises(ReleaseError, match=r"version 3 is none of this release.*rollback -- --to"):
        move(function, wanted_alias("1", "2", 0.5), {"1", "2"}, check=lambda: None)
    assert function.alias().weights == {"3": 1.0}


def test_a_rollback_asks_nobody(world: World, function: LambdaFunction) -> None:
    by_hand(world, "3")
    function.point("1", {})
    assert function.alias().weights == {"1": 1.0}
