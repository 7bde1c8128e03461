"""Somebody moves the alias by hand, past the release manager, in the middle of a release."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

from benchmarks.histories.cloud import Actor, Faults, Turns, World
from benchmarks.histories.main import BETTER, FIRST, _context, _deploy, _records, virtual
from infra.release.commands.watch import look_after


@dataclass
class Scene:
    """A cloud without faults, in which version 1 is live."""

    world: World = field(
        default_factory=lambda: World(
            random.Random(0), Faults(), versions={"1": FIRST, "9": FIRST}, latest=FIRST
        )
    )

    def run(
        self, work: Callable[[Actor], object], person: Callable[[Actor], object] | None = None
    ) -> str:
        """The result of the manager's work."""
        turns = Turns(self.world)
        actors = [Actor(turns, "manager", 0.0, work)]
        actors += [Actor(turns, "person", 0.0, person)] if person else []
        for actor in actors:
            turns.start(actor, 0)
        with virtual():
            turns.run()
        mistakes = [actor.mistake for actor in actors if actor.mistake]
        assert not mistakes
        return actors[0].result

    def deploy(self, person: Callable[[Actor], object] | None = None) -> str:
        return self.run(_deploy(BETTER, take_over=True, apply_s=5), person)

    def kinds(self) -> list[str]:
        return [record.decision.kind for record in _records(self.world)]

    def moves(self, weights: Mapping[str, float], when: Mapping[str, float]) -> Callable[..., None]:
        """A person who makes it so some time after the alias is as given."""

        def work(actor: Actor) -> None:
            while self.world.weights() != when:
                actor.sleep(1)
            actor.sleep(20)
            self.move(weights)

        return work

    def move(self, weights: Mapping[str, float]) -> None:
        version = next(iter(weights))
        others = {name: share for name, share in weights.items() if name != version}
        self.world.live = version, others
        self.world.revision += 1


STEPS: list[dict[str, float]] = [{"1": 0.9, "10": 0.1}, {"1": 0.5, "10": 0.5}]
STABLE = {"1": 1.0}


@pytest.mark.parametrize("step", [*STEPS, {"10": 1.0}])
def test_who_sends_all_traffic_back_by_hand_ends_the_release(step: dict[str, float]) -> None:
    scene = Scene()
    assert scene.deploy(scene.moves(STABLE, step)) == "rolled back"
    assert scene.world.weights() == STABLE
    assert scene.kinds()[-2:] == ["roll back", "rolled back"]


@pytest.mark.parametrize("weights", [{"1": 0.7, "10": 0.3}, {"9": 1.0}, {"10": 1.0}])
def test_another_split_by_hand_is_left_for_a_person_to_decide(weights: dict[str, float]) -> None:
    scene = Scene()
    assert scene.deploy(scene.moves(weights, STEPS[0])) == "stop"
    assert scene.world.weights() == weights
    with virtual():
        waits = scene.run(lambda actor: look_after(_context(actor), None, 600).kind)
    assert (waits, scene.world.weights()) == ("waiting", weights)


def test_a_release_that_was_stopped_by_a_hand_goes_on_if_it_is_deployed_again() -> None:
    scene = Scene()
    assert scene.deploy(scene.moves({"1": 0.7, "10": 0.3}, STEPS[0])) == "stop"
    assert scene.deploy() == "promoted"
    assert scene.world.weights() == {"10": 1.0}


@pytest.mark.parametrize("step", [STEPS[1], {"10": 1.0}])
def test_a_run_that_goes_on_with_a_killed_one_does_not_undo_a_hand(step: dict[str, float]) -> None:
    """A runner was killed, somebody sent the traffic back, and then the watcher comes."""
    scene = Scene()

    def dies(actor: Actor) -> None:
        while scene.world.weights() != step:
            actor.sleep(1)
        scene.world.faults.killed = 1.0

    assert scene.deploy(dies) == "killed"
    scene.world.faults = Faults()
    scene.move(STABLE)
    scene.world.now += 120  # its lease is over
    with virtual():
        done = scene.run(lambda actor: look_after(_context(actor), None, 600).kind)
    assert (done, scene.world.weights()) == ("rolled back", STABLE)


def test_a_version_by_hand_behind_the_promotion_is_left_and_said() -> None:
    scene = Scene()
    assert scene.deploy(scene.moves({"9": 1.0}, {"10": 1.0})) == "ReleaseError"
    assert scene.world.weights() == {"9": 1.0}
