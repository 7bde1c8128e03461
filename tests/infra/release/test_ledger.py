"""The ledger is append-only and shows when it was changed; the lease has one holder."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable

import pytest

from common.aws import S3Store
from infra.release.aws.clients import WallClock, explained
from infra.release.errors import LeaseLost, Refused, ReleaseError
from infra.release.state.journal import Journal
from infra.release.state.lease import Lease
from infra.release.state.ledger import Ledger, live_before
from tests.helpers.waiting import wait_until
from tests.infra.release.bare import BUCKET
from tests.infra.release.made import decision
from tests.infra.release.world import World
from tests.infra.twin.cloud.functions import client

Changed = Callable[[dict[str, object]], None]


@pytest.fixture
def store(world: World) -> S3Store:
    return S3Store(client(world.cloud, "s3"), BUCKET, "test", explained)


def test_records_come_back_as_they_were_written(store: S3Store) -> None:
    ledger = Ledger(store)
    written = [ledger.append(decision(why=f"no. {n}", weights={"1": 0.9})) for n in range(12)]
    assert Ledger(store).records() == written


def test_of_two_writers_behind_the_same_record_one_is_refused(store: S3Store) -> None:
    first, second = Ledger(store), Ledger(store)
    first.append(decision())
    second.records()
    first.append(decision("test"))
    with pytest.raises(LeaseLost):
        second.append(decision("shift"))
    assert [record.decision.kind for record in second.records()] == ["begin", "test"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda values: values.update(why="I was never here"), "chain is broken"),
        (lambda values: values.update(schema=9), "another release of Kiln"),
        (lambda values: values.update(kind="surprise"), "unknown kind 'surprise'"),
        (lambda values: values.pop("who"), "missing 1 required positional argument: 'who'"),
    ],
    ids=["text", "schema", "kind", "missing"],
)
def test_a_changed_record_shows(store: S3Store, world: World, change: Changed, says: str) -> None:
    ledger = Ledger(store)
    for _ in range(3):
        ledger.append(decision())
    s3, key = client(world.cloud, "s3"), "test/records/00000002.json"
    values = json.loads(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    change(values)
    s3.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(values))
    with pytest.raises(ReleaseError, match=says):
        Ledger(store).records()


def test_a_missing_record_shows(store: S3Store, world: World) -> None:
    ledger = Ledger(store)
    for _ in range(3):
        ledger.append(decision())
    client(world.cloud, "s3").delete_object(Bucket=BUCKET, Key="test/records/00000002.json")
    with pytest.raises(ReleaseError, match=r"00000002\.json: the chain is broken"):
        Ledger(store).records()


def test_rollbacks_go_back_further_each_time(store: S3Store) -> None:
    ledger = Ledger(store)
    records = [
        ledger.append(decision("promoted", from_version=old, to_version=new))
        for old, new in (("1", "2"), ("2", "3"), ("3", "4"))
    ]
    assert live_before(records, "4") == "3"
    records.append(ledger.append(decision("rolled back", from_version="3", to_version="4")))
    assert live_before(records, "3") == "2"
    # Killed before the end was written: the alias is at 2 already, and further back is 1.
    assert live_before(records, "2") == "1"
    assert live_before([], "1") is None


def test_who_took_the_lease_is_heard_though_the_other_writes_once_more(store: S3Store) -> None:
    Ledger(store).append(decision(evidence={"strategy": "canary"}))
    late = Ledger(store)
    late.records()
    journal = Journal(Ledger(store), "ann", WallClock())
    late.append(decision("publish"))

    said = journal.insist(lambda: decision("roll back", why=f"after {len(journal.records)}"))

    assert said.why == "after 2"
    assert [r.decision.kind for r in Ledger(store).records()][-2:] == ["publish", "roll back"]


def test_one_holds_the_lease_and_others_are_told_who(store: S3Store) -> None:
    lease, other = Lease(store, 30), Lease(store, 30)
    with lease.held("ann", "deploy 1"):
        with pytest.raises(Refused, match=r"ann.*deploy 1"), other.held("bob", ""):
            pass
        holder = other.holder()
        assert holder
        assert holder.who == "ann"
        lease.check()
    assert other.holder() is None
    with other.held("bob", "deploy 2") as before:
        assert before is None


def test_who_is_taken_over_is_told(store: S3Store) -> None:
    lease, other = Lease(store, 30), Lease(store, 30)
    with lease.held("ann", "deploy 1"):
        with other.held("bob", "rollback", take_over=True) as before:
            assert before
            assert before.who == "ann"
            with pytest.raises(LeaseLost, match=r"bob took over \(rollback\)"):
                lease.check()
        with pytest.raises(LeaseLost):  # also once bob is done
            lease.check()


def test_a_lease_that_is_not_renewed_ends(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.release.state.lease._this_process", lambda: "")
    crashed = Lease(store, 30, now=lambda: 1000.0)
    crashed._acquire("ann", "deploy 1", False)  # and is never seen again
    with (
        pytest.raises(Refused, match=r"\b1 s\b"),
        Lease(store, 30, lambda: 1029.0).held("bob", ""),
    ):
        pass
    with Lease(store, 30, now=lambda: 1030.0).held("bob", "deploy 2") as before:
        assert before
        assert before.who == "ann"


def test_a_lease_is_renewed_while_it_is_held(store: S3Store) -> None:
    ticks = itertools.count()
    with Lease(store, 1.5, now=lambda: float(next(ticks))).held("ann", "deploy 1"):
        other = Lease(store, 1.5, now=lambda: 0.0)
        first = other.holder()
        assert first
        wait_until(lambda: (other.holder() or first).until > first.until)


def test_of_many_who_want_the_lease_one_gets_it(store: S3Store) -> None:
    got, done = [], threading.Barrier(8)

    def want(who: str) -> None:
        try:
            with Lease(store, 30).held(who, "deploy"):
                got.append(who)
                done.wait(20)
        except Refused:
            done.wait(20)

    threads = [threading.Thread(target=want, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
