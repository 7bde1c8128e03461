"""AWS FIS's faults of Lambda at each step of a release: what becomes of it.

A fault hits the candidate alone or, as an experiment of FIS does, all of the function. Of the table
some cells are tested each time, KILN_EVERY_FAULT=1 takes all of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest

from infra.release.state.journal import Journal
from infra.release.state.ledger import Decision
from tests.infra.release.world import World

GOOD, OTHER = "a" * 64, "b" * 64
STEPS = ("smoke test", "20 %", "50 %", "promotion")
# What becomes of a good version when a fault begins at each of the steps and stays.
TABLE = {
    ("delay", "candidate"): ("rolled back", "rolled back", "rolled back", "promoted"),
    ("error", "candidate"): ("failed", "rolled back", "rolled back", "rolled back"),
    ("response", "candidate"): ("failed", "rolled back", "rolled back", "rolled back"),
    ("delay", "function"): ("promoted", "promoted", "promoted", "promoted"),
    ("error", "function"): ("failed", "not verified", "not verified", "not verified"),
    ("response", "function"): ("failed", "not verified", "not verified", "not verified"),
}
CODES = {"promoted": 0, "failed": 1, "rolled back": 20, "not verified": 30}
CELLS = [
    (fault, target, step, outcome)
    for (fault, target), outcomes in TABLE.items()
    for step, outcome in zip(STEPS, outcomes, strict=True)
]
OFTEN = {
    ("delay", "candidate", "20 %"),
    ("error", "candidate", "smoke test"),
    ("response", "candidate", "50 %"),
    ("error", "function", "20 %"),
    ("error", "candidate", "promotion"),
}
if os.environ.get("KILN_EVERY_FAULT") != "1":
    CELLS = [cell for cell in CELLS if cell[:3] in OFTEN]


@pytest.mark.parametrize(("fault", "target", "step", "outcome"), CELLS)
def test_a_fault_leaves_no_split_and_no_version_that_it_shows_to_be_harmful(
    world: World, fault: str, target: str, step: str, outcome: str
) -> None:
    world.set("most_hold_s = 60", "most_hold_s = 3")
    world.set("rollback_s = 30", "rollback_s = 3")
    world.set("watch_s = 0.3", "watch_s = 1")
    world.create(world.push(GOOD))
    image = world.push(OTHER)
    versions = ["2"] if target == "candidate" else ["1", "2"]
    with world.traffic(callers=4), injected(world, fault, versions, step):
        result = world.deploy(image)
    assert result.code == CODES[outcome], result.log
    assert world.alias() == ({"2": 1.0} if outcome == "promoted" else {"1": 1.0})
    # Once it is over, the next command finds nothing that is left to do or ends it.
    if outcome == "not verified":
        assert world.rollback().code == 0
    assert world.status()["unfinished"] is None
    assert world.lease().holder() is None


@contextmanager
def injected(world: World, fault: str, versions: list[str], step: str) -> Iterator[None]:
    """The fault begins with the record of a step, and ends with the block."""
    reached = {"20 %": ["shift"], "50 %": ["shift"] * 2, "promotion": ["shift"] * 2 + ["promote"]}
    append, seen = Journal.append, list[str]()

    def begin() -> None:
        world.faults.write_text(json.dumps({"kind": fault, "versions": versions}))

    def append_and_begin(journal: Journal, decision: Decision) -> None:
        append(journal, decision)
        if decision.kind in ("shift", "promote"):
            seen.append(decision.kind)
            if seen == reached.get(step):
                begin()

    if step not in reached:
        begin()
    with patch.object(Journal, "append", append_and_begin):
        yield
    world.faults.unlink()
