"""Many processes at one registry: one wins, the others are told, nothing is lost.

The processes are let go together, round after round, against a folder and against an object store.
"""

import os
import random
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from common.objects import Conflict
from ml.registry.registry import Registry
from tests.ml.registry.artifacts import artifact, version_of
from tests.ml.registry.processes import Barrier, start, wait

PROCESSES = 4
ROUNDS = os.environ.get("KILN_RACE_ROUNDS")  # more of them: --test_env=KILN_RACE_ROUNDS=500
IMAGE = "sha256:" + "12ab" * 16


def rounds(url: str) -> int:
    return int(ROUNDS or (6 if url.startswith("s3") else 40))


def test_of_promotions_at_once_one_wins_and_the_others_are_told(url: str, tmp_path: Path) -> None:
    setup = Registry.open(url)
    # A process promotes another version than in the round before, and than all other processes.
    versions = [setup.register(artifact(str(n)))[0].version for n in range(2 * PROCESSES)]

    def race(process: int) -> None:
        registry, barrier = Registry.open(url, who=f"p{process}"), Barrier(barrier_path, PROCESSES)
        for number in range(rounds(url)):
            seen = registry.state().number
            barrier.wait()
            try:
                registry.promote(versions[number % 2 * PROCESSES + process], seen=seen)
                outcome = "won"
            except Conflict as exc:
                outcome = "told" if "nothing was changed" in str(exc) else str(exc)
            (tmp_path / f"{process}.{number}").write_text(outcome)
            barrier.wait()

    barrier_path = str(tmp_path / "barrier")
    children = [start(partial(race, p)) for p in range(PROCESSES)]
    assert [wait(child) for child in children] == [0] * PROCESSES
    for number in range(rounds(url)):
        outcomes = Counter((tmp_path / f"{p}.{number}").read_text() for p in range(PROCESSES))
        assert outcomes == {"won": 1, "told": PROCESSES - 1}, f"round {number}"
    history = setup.history("champion")
    assert [record.number for record in history] == list(range(1, rounds(url) + 1))
    winners = {
        number: p
        for number in range(rounds(url))
        for p in range(PROCESSES)
        if (tmp_path / f"{p}.{number}").read_text() == "won"
    }
    assert [record.move.who for record in history] == [f"p{p}" for p in winners.values()]
    assert setup.ledger.problems() == []


def test_moves_of_different_aliases_at_once_all_succeed(url: str) -> None:
    setup = Registry.open(url)
    version = setup.register(artifact())[0].version

    def promote_many(process: int) -> None:
        registry = Registry.open(url)
        for number in range(rounds(url)):
            assert registry.promote(version, f"alias-{process}-{number}") is not None

    children = [start(partial(promote_many, p)) for p in range(PROCESSES)]
    assert [wait(child) for child in children] == [0] * PROCESSES
    assert len(setup.state().aliases) == PROCESSES * rounds(url)
    assert len(setup.history()) == PROCESSES * rounds(url)
    assert setup.ledger.problems() == []


def test_one_model_registered_and_linked_at_once_is_kept_once(url: str, tmp_path: Path) -> None:
    setup = Registry.open(url)
    barrier_path = str(tmp_path / "barrier")

    def register(process: int) -> None:
        registry, barrier = Registry.open(url), Barrier(barrier_path, PROCESSES)
        for number in range(rounds(url) // 3):
            barrier.wait()
            _, new = registry.register(artifact(str(number)))
            image = f"sha256:{number:064x}"
            _, linked = registry.link_image(image, version_of(str(number)))
            (tmp_path / f"{process}.{number}").write_text(f"{new:d}{linked:d}")

    children = [start(partial(register, p)) for p in range(PROCESSES)]
    assert [wait(child) for child in children] == [0] * PROCESSES
    for number in range(rounds(url) // 3):
        outcomes = [(tmp_path / f"{p}.{number}").read_text() for p in range(PROCESSES)]
        assert sum(outcome[0] == "1" for outcome in outcomes) == 1
        assert sum(outcome[1] == "1" for outcome in outcomes) == 1
        assert setup.versions.model(version_of(str(number))) == artifact(str(number))
    assert len(setup.store.entries("models/")) == rounds(url) // 3
    assert len(setup.images.all()) == rounds(url) // 3


@pytest.mark.parametrize("seed", range(3))
def test_writers_killed_in_mid_race_take_nothing_with_them(tmp_path: Path, seed: int) -> None:
    url = str(tmp_path / "registry")
    setup = Registry.open(url)
    versions = [setup.register(artifact(str(n)))[0].version for n in range(2)]

    def promote_until_killed(process: int) -> None:
        registry = Registry.open(url)
        while True:
            for version in versions:
                registry.promote(version, f"alias-{process}")

    pick = random.Random(seed)
    children = [start(partial(promote_until_killed, p)) for p in range(PROCESSES)]
    seen: list[int] = []
    for child in children:
        before = setup.state().number
        while setup.state().number < before + 5:  # all are at work
            time.sleep(0.001)
        time.sleep(pick.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        seen.append(setup.state().number)
    assert [wait(child) for child in children] == [128 + signal.SIGKILL] * PROCESSES
    assert seen == sorted(seen)
    assert setup.ledger.problems() == []
    assert setup.state().number == len(setup.history()) >= seen[-1]
    assert set(setup.state().aliases.values()) <= set(versions)
    assert setup.promote(versions[0], "after") is not None
