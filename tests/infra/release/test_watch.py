"""A release whose run is gone, and the watcher that ends it: no split without an owner."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from infra.release.commands import watch
from infra.release.commands.watch import BoundedClock, TimeUp
from infra.release.state.ledger import ENDS
from infra.twin.cloud.cloud import Cloud
from tests.helpers.waiting import wait_until
from tests.infra.release.bare import BUCKET
from tests.infra.release.killed import GOOD, OTHER, SHORT, Killing, deploys
from tests.infra.release.world import Result, World, raised
from tests.infra.twin.cloud.functions import Functions, client

LOOKS_SLOWLY = SHORT.replace("bake_s = 0\n", "bake_s = 5\n")


@pytest.fixture
def killing(short_lived_world: World) -> Iterator[Killing]:
    with deploys(short_lived_world.cloud.environment) as running:
        yield Killing(short_lived_world, running, itertools.count())


def look(world: World, *arguments: str) -> Result:
    return world.run(watch.main, "--golden", str(world.golden), *arguments)


@pytest.mark.parametrize(
    ("behaviour", "numbers", "end", "live"),
    [({}, (2, 3, 4, 5, 8), "promoted", "2"), ({"wrong": 1.0}, (5, 8), "rolled back", "1")],
    ids=["good", "bad"],
)
def test_a_run_killed_behind_any_record_ends_in_a_promotion_or_a_rollback(
    killing: Killing, behaviour: dict[str, float], numbers: tuple[int, ...], end: str, live: str
) -> None:
    found = set()
    for number in numbers:
        world = killing.fresh()
        killed_behind_record(killing, world, world.push(OTHER, **behaviour), number)
        kind = world.kinds()[-1]
        found.add(kind)
        seen = look(world)
        has_no_traffic = kind in ("begin", "publish", "test")
        expected = ("failed", {"1": 1.0}) if has_no_traffic else (end, {live: 1.0})
        assert (seen.code, seen.data["outcome"]) == (0, expected[0]), (kind, seen.log)
        assert world.alias() == expected[1], kind
        last = world.ledger()[-1].decision  # raises if the chain is broken
        assert (last.kind in ENDS, bool(last.why)) == (True, True), kind
        assert world.lease().holder() is None
        assert look(world).data["outcome"] == "idle"
    assert found >= {"look", "promote" if end == "promoted" else "roll back"}


def killed_behind_record(killing: Killing, world: World, image: str, number: int) -> None:
    record = f"s3.PutObject/{number:08d}.json"
    assert killing.deploy(world, image, behind=record)[0] == -9
    assert len(world.kinds()) == number


def test_a_run_that_lives_is_left_alone(world: World) -> None:
    world.create(world.push(GOOD))
    with world.lease().held("someone", "deploy sha256:…"):
        assert look(world).data["outcome"] == "idle"  # it has not begun
    stopped(world)
    with world.lease().held("someone", "deploy sha256:…"):
        before = world.kinds()
        assert look(world).data["outcome"] == "running"
        assert (world.kinds(), len(world.alias())) == (before, 2)


def stopped(world: World) -> None:
    """A release that cannot be judged, and is left to a person."""
    world.set('on_hold = "roll back"', 'on_hold = "stop"')
    world.set("most_hold_s = 60", "most_hold_s = 0")
    world.set('required = ["errors", "accuracy"]', 'required = ["latency"]')
    assert world.deploy(world.push(OTHER)).code == 10


def test_a_release_that_waits_for_a_person_waits_until_an_alarm_is_raised(world: World) -> None:
    world.create(world.push(GOOD))
    stopped(world)
    assert look(world).data["outcome"] == "waiting"
    assert len(world.alias()) == 2
    raised(world)
    found = look(world)
    assert (found.data["outcome"], world.alias()) == ("rolled back", {"1": 1.0})
    assert found.data["record"]["why"] == "alarm: kiln-errors"


def test_a_look_ends_in_time_and_the_next_one_goes_on(killing: Killing) -> None:
    world = killing.fresh()
    world.config.write_text(LOOKS_SLOWLY)
    image = world.push(OTHER)
    killed_in_a_hold(killing, world, image)
    assert look(world, "--within", "1").data["outcome"] == "continued"
    assert world.lease().holder() is None
    assert len(world.alias()) == 2
    world.config.write_text(SHORT)
    assert look(world).data["outcome"] == "promoted"
    assert world.kinds().count("begin") == 1


def test_nothing_is_waited_for_that_comes_after_the_end() -> None:
    class Still:
        slept = 0.0

        def now(self) -> float:
            return 10.0

        def sleep(self, seconds: float) -> None:
            self.slept += seconds

    still = Still()
    clock = BoundedClock(still, until_s=11.0)
    clock.sleep(0.9)
    with pytest.raises(TimeUp):
        clock.sleep(1.1)
    assert still.slept == 0.9


PROGRAM = """
sys.path[:0] = {paths}
from pathlib import Path
from infra.release import settings
from infra.release.commands import command, watch
settings.FOLDER, command._GOLDEN_SET = Path({folder!r}), Path({golden!r})

class Call:
    function_name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
    def __init__(self, headers):
        self.until = int(headers["Lambda-Runtime-Deadline-Ms"])
    def get_remaining_time_in_millis(self):
        return self.until - time.time() * 1000

serve(lambda event, headers: watch.handler(event, Call(headers)))
"""


@pytest.fixture
def scheduled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Killing]:
    """A cloud whose minutes are quick."""
    functions = Functions(tmp_path)
    with Cloud(tmp_path, functions.launch, minute_s=1.0) as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        location = {"LocationConstraint": cloud.region}
        client(cloud, "s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=location)
        with deploys(cloud.environment) as running:
            yield Killing(World(cloud, functions, tmp_path), running, itertools.count())


@pytest.mark.parametrize(
    ("behaviour", "end", "live"),
    [({}, "promoted", "2"), ({"wrong": 1.0}, "rolled back", "1")],
    ids=["good", "bad"],
)
def test_a_scheduled_function_ends_the_split_of_a_killed_run(
    scheduled: Killing, behaviour: dict[str, float], end: str, live: str
) -> None:
    world = scheduled.fresh()
    world.config.write_text(LOOKS_SLOWLY.replace("lease_s = 30", "lease_s = 2"))
    image = world.push(OTHER, **behaviour)
    killed_in_a_hold(scheduled, world, image)
    watch_by_schedule(world)
    wait_until(lambda: world.kinds()[-1] in ENDS, every_s=0.5)
    assert (world.kinds()[-1], world.alias()) == (end, {live: 1.0})
    last = world.ledger()[-1].decision
    assert (last.who, bool(last.why)) == (f"{world.name}-watch", True)


def killed_in_a_hold(killing: Killing, world: World, image: str) -> None:
    """Kills a deploy that has split the traffic."""
    assert killing.deploy(world, image, behind="lambda.UpdateAlias")[0] == -9
    assert len(world.alias()) == 2


def watch_by_schedule(world: World) -> None:
    """What Terraform's root `service` makes of `watcher_image_uri`."""
    name = f"{world.name}-watch"
    world.config.rename(world.folder / "dev.toml")
    outputs = world.infrastructure.outputs()
    assert outputs
    program = PROGRAM.format(
        paths=[os.path.abspath(path) for path in sys.path],
        folder=str(world.folder),
        golden=str(world.golden),
    )
    variables = {"KILN_ENV": "dev", "KILN_SERVICE_OUTPUTS": json.dumps(asdict(outputs))}
    made = client(world.cloud, "lambda").create_function(
        FunctionName=name,
        PackageType="Image",
        Code={"ImageUri": world.functions.push(world.cloud, program)},
        Role=client(world.cloud, "iam").get_role(RoleName=world.name)["Role"]["Arn"],
        Timeout=300,
        Environment={"Variables": variables},
    )
    events = client(world.cloud, "events")
    events.put_rule(Name=name, ScheduleExpression="rate(1 minute)")
    events.put_targets(Rule=name, Targets=[{"Id": "watch", "Arn": made["FunctionArn"]}])
