"""A release that is killed before any of its AWS calls ends, run again, as if it had not been."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from functools import partial

import pytest

from infra.release.state.lease import Lease
from tests.infra.release.killed import OTHER, RENEWAL, Killing, changes, deploys
from tests.infra.release.world import World


@pytest.fixture
def killing(short_lived_world: World) -> Iterator[Killing]:
    with deploys(short_lived_world.cloud.environment) as running:
        yield Killing(short_lived_world, running, itertools.count())


def points_of(calls: list[str]) -> list[int]:
    """Calls right behind one that changed something: others would find the same as one of these.

    KILN_EVERY_CALL=1 takes all of them.
    """
    if os.environ.get("KILN_EVERY_CALL") == "1":
        return list(range(1, len(calls) + 1))
    leases = [n for n, call in enumerate(calls, start=1) if call == RENEWAL]
    changed = {n for n, call in enumerate(calls, start=1) if changes(call)}
    # The first and the last write of the lease take it and give it back.
    behind = {n + 1 for n in changed | {leases[0]}}
    return sorted({1, *behind, leases[-1]} & set(range(1, len(calls) + 1)))


@pytest.mark.parametrize(
    ("behaviour", "code", "end", "live", "least"),
    [({}, 0, "promoted", "2", 20), ({"wrong": 1.0}, 20, "rolled back", "1", 16)],
    ids=["good", "bad"],
)
def test_killed_anywhere_and_run_again_it_converges(
    killing: Killing, behaviour: dict[str, float], code: int, end: str, live: str, least: int
) -> None:
    world = killing.fresh()
    image = world.push(OTHER, **behaviour)
    found, calls = killing.deploy(world, image)
    assert (found, world.kinds()[-1], world.alias()) == (code, end, {live: 1.0})
    points = points_of(calls)
    assert len(points) >= least

    for point in points:
        world = killing.fresh()
        killed, _ = killing.deploy(world, image, kill_at=point)
        assert killed == -9 or point > len(calls) - 3, f"point {point} was not reached"
        assert set(world.alias()) <= {"1", "2"} & set(world.versions()), f"point {point}"
        before = world.ledger()

        again, _ = killing.deploy(world, image)
        after = world.ledger()  # raises if the chain is broken
        assert after[: len(before)] == before, f"point {point}: the ledger is not append-only"
        assert world.alias() == {live: 1.0}, f"point {point}"
        ends = [record.decision.kind for record in after if record.decision.kind == end]
        assert len(ends) == 1, f"point {point}: {world.kinds()}"
        assert again == code, f"point {point}"
        assert world.lease().holder() is None, f"point {point}"


def test_a_deploy_that_is_cancelled_gives_the_lease_back_and_goes_on_later(
    killing: Killing,
) -> None:
    for point in (12, 30, 45, 60):
        world = killing.fresh()
        image = world.push(OTHER)
        cancelled, _ = killing.deploy(world, image, point, signal.SIGTERM)
        assert cancelled == 130, f"point {point}"
        assert world.lease().holder() is None, f"point {point}"
        assert killing.deploy(world, image)[0] == 0, f"point {point}"
        assert world.alias() == {"2": 1.0}, f"point {point}"


def test_a_process_killed_on_another_machine_holds_the_lease_until_it_ends(
    killing: Killing, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = killing.fresh()
    image = world.push(OTHER)
    killing.deploy(world, image, kill_at=40)
    monkeypatch.setattr("infra.release.state.lease._machine", lambda: "another machine")
    refused = world.deploy(image)
    assert (refused.code, "is running `deploy" in refused.data["error"]) == (1, True)
    later = partial(Lease, now=lambda: time.time() + 31)
    monkeypatch.setattr("infra.release.rollout.context.Lease", later)
    assert world.deploy(image).code == 0
