"""ml/registry/ledger.py: records that follow one another, whoever else is writing."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from common.objects import Conflict, Damaged, Stored
from ml.registry.ledger import REFUSED, Ledger, Move, Record, State, previous_target

A, B, C = "a" * 64, "b" * 64, "c" * 64


class Memory:
    """A store of a few objects, in which somebody may be faster."""

    url = "memory"

    def __init__(self, faster: Callable[[], None] | None = None) -> None:
        self.objects: dict[str, bytes] = {}
        self.faster = faster

    def read(self, key: str) -> bytes:
        return self.objects[key]

    def create(self, key: str, data: bytes) -> bool:
        if self.faster:
            self.faster()
        return self.objects.setdefault(key, data) == data

    def entries(self, prefix: str, after: str = "") -> list[Stored]:
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > after)
        return [Stored(key, len(self.objects[key]), 0) for key in keys]

    def delete(self, key: str) -> None:
        del self.objects[key]

    def unfinished(self) -> list[Stored]:
        return []


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been slept, in seconds."""
    slept: list[float] = []
    monkeypatch.setattr("ml.registry.ledger.time.sleep", slept.append)
    return slept


def move(target: str | None, alias: str = "champion", kind: str = "promote") -> Move:
    return Move(alias, target, kind, "ada", "2026-01-02T03:04:05.678+00:00", "why", "passed")


def filled(*moves: Move) -> tuple[Memory, Ledger]:
    store = Memory()
    ledger = Ledger(store)
    for one in moves:
        ledger.append(lambda _, one=one: one)  # type: ignore[misc]
    return store, ledger


def test_records_are_numbered_from_one_and_carry_what_holds() -> None:
    store, ledger = filled(move(A), move(B, "challenger"), move(B), move(None, "challenger"))
    assert [*store.objects] == [f"ledger/0000000{number}.json" for number in (1, 2, 3, 4)]
    assert [record.number for record in ledger.records()] == [1, 2, 3, 4]
    assert [record.number for record in ledger.records(after=2)] == [3, 4]
    state = ledger.state()
    assert (state.number, state.aliases) == (4, {"champion": B})
    assert [record.source for record in ledger.records()] == [None, None, A, B]
    assert ledger.problems() == []


def test_no_record_yet_is_a_state_too() -> None:
    _, ledger = filled()
    assert ledger.state() == State(0, None, {})
    assert ledger.records() == []
    assert ledger.problems() == []


def test_a_refused_move_is_a_record_that_moves_nothing() -> None:
    _, ledger = filled(move(A), replace(move(B), verdict=REFUSED))
    assert ledger.state().aliases == {"champion": A}
    assert [record.move.moved for record in ledger.records()] == [True, False]


def test_a_move_is_decided_again_when_somebody_was_faster(no_waiting: list[float]) -> None:
    store, ledger = filled(move(A))
    others = iter([move(B), move(C)])

    def overtake() -> None:
        store.faster = None
        if other := next(others, None):
            ledger.append(lambda _: other)
            store.faster = overtake

    store.faster = overtake
    seen: list[int] = []

    def decide(state: State) -> Move:
        seen.append(state.number)
        return move(A)

    record = ledger.append(decide)
    assert record is not None
    assert (seen, record.number, record.source) == ([1, 2, 3], 4, C)
    assert ledger.problems() == []
    assert len(no_waiting) == 2
    assert all(0 <= seconds <= 0.02 for seconds in no_waiting)


def test_a_decision_may_find_that_nothing_is_left_to_do() -> None:
    store, ledger = filled(move(A))
    assert ledger.append(lambda _: None) is None
    assert len(store.objects) == 1


def test_an_append_that_is_always_overtaken_gives_up(no_waiting: list[float]) -> None:
    store = Memory()
    store.create = lambda key, data: False  # type: ignore[method-assign]
    with pytest.raises(Conflict, match=r"^200 "):
        Ledger(store).append(lambda _: move(A))
    assert max(no_waiting) <= 0.2


def test_a_record_is_readable_and_reads_back() -> None:
    record = Record(3, "d" * 64, replace(move(B), evidence={"p": 0.5}), A, {"champion": B})
    assert Record.from_json(record.to_json()) == record
    text = record.to_json().decode()
    assert text.endswith("}\n")
    values = json.loads(text)
    assert (values["schema"], values["from"], values["to"]) == (1, A, B)
    assert values["aliases"] == {"champion": B}
    named = replace(record, move=replace(move(B), why="größer als 0,5 %"))
    assert "größer als 0,5 %" in named.to_json().decode()
    with pytest.raises(ValueError, match="another release"):
        Record.from_json(json.dumps(values | {"schema": 2}).encode())
    with pytest.raises(ValueError, match="JSON"):
        replace(record, move=replace(move(B), evidence={"p": float("nan")})).to_json()


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"7", b'{"schema": 1}'])
def test_what_is_no_record_is_damage(data: bytes) -> None:
    store, ledger = filled(move(A), move(B))
    store.objects["ledger/00000001.json"] = data
    with pytest.raises(Damaged, match=r"ledger/00000001\.json"):
        ledger.records()
    [problem] = ledger.problems()
    assert "ledger/00000001.json" in problem


def test_every_change_of_the_chain_shows() -> None:
    store, ledger = filled(move(A), move(B), move(C))
    first = store.objects.pop("ledger/00000001.json")
    [problem] = ledger.problems()
    assert "ledger/00000001.json " in problem
    changed = Record.from_json(first)
    store.objects["ledger/00000001.json"] = replace(changed, previous="e" * 64).to_json()
    assert len(ledger.problems()) == 2  # it names a record before it, and record 2 another
    store.objects["ledger/00000001.json"] = first
    store.objects["ledger/00000004.json"] = store.objects["ledger/00000003.json"]
    [problem] = ledger.problems()
    assert "ledger/00000004.json" in problem


def records(*moves: Move) -> list[Record]:
    return [Record(place, None, one, None, {}) for place, one in enumerate(moves, 1)]


@pytest.mark.parametrize(
    ("moves", "previous"),
    [
        ([], None),
        ([move(A)], None),
        ([move(A), move(B)], A),
        ([move(A), move(B), move(C), move(B, kind="rollback")], A),
        ([move(A), move(B), move(A, kind="rollback"), move(C)], A),
        ([move(A), move(B), move(C), move(A, kind="rollback")], None),
        ([move(A), move(B, kind="rollback")], A),  # to where it never was
        ([move(A), move(B), move(A), move(C)], A),
        ([move(A), move(B), move(A)], B),  # promoted again, not rolled back
        ([move(A), move(B, "challenger")], None),
        ([move(A), replace(move(B), verdict=REFUSED)], None),
        ([move(A), move(None, kind="remove")], A),
    ],
)
def test_a_rollback_goes_to_what_was_there_before_the_present_was_promoted(
    moves: list[Move], previous: str | None
) -> None:
    assert previous_target(records(*moves), "champion") == previous
