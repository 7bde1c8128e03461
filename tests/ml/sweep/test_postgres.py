"""Two machines on one PostgreSQL: one dies, the other finishes what it began."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial

from ml.sweep.standings import outcome
from tests.ml.sweep.command import SweepWorkspace, kill_worker
from tests.ml.sweep.postgres import running_postgres

_FAST = ("sweep.heartbeat_s=1", "sweep.grace_s=4")


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[SweepWorkspace]:
    with running_postgres() as address:
        workspace = SweepWorkspace(tmp_path, address)
        yield workspace
        workspace.end()


def _finished(trials: list[FrozenTrial]) -> dict[int, tuple[object, object]]:
    return {t.number: (t.value, t.params) for t in trials if outcome(t) == "finished"}


def test_a_machine_that_dies_leaves_its_trial_to_the_other(
    workspace: SweepWorkspace, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    first = workspace.start("sweep.n_trials=4", *_FAST, workspace=other)
    workspace.wait_until(lambda trials: len(_finished(trials)) >= 1, first)
    trials = workspace.wait_until(
        lambda trials: any(outcome(t) == "running" and t.params for t in trials), first
    )
    victim = next(t for t in trials if outcome(t) == "running" and t.params)
    first.kill()
    kill_worker(other / "multirun" / "small", victim)
    first.communicate()
    known = _finished(workspace.trials())

    done = workspace.run("sweep.n_trials=4", *_FAST)  # a folder that knows nothing of the other
    assert done.returncode == 0, done.stderr
    assert "secret" not in done.stdout
    trials = workspace.trials()
    assert known.items() <= _finished(trials).items()
    assert len(_finished(trials)) == 4
    if victim.number not in known:
        assert outcome(trials[victim.number]) == "lost"
        again = [t for t in trials if t.user_attrs.get("origin") == victim.number]
        assert [t.params for t in again] == [victim.params]
    digests = [t.user_attrs["digest"] for t in trials if outcome(t) == "finished"]
    assert len(set(digests)) == 4
    written = "".join(
        path.read_text() for path in workspace.path.rglob("*") if path.suffix in (".yaml", ".txt")
    )
    assert "secret" not in written
