"""Generated histories of conflicting release managers, on S3 and Lambda with faults.

Two or three managers deploy and roll back one environment, on clocks up to ten minutes apart, with
lost replies, 503s, network partitions, and killed processes. Then one more continues without
faults. Invariants are checked after each move of the alias, and at the end.

  python -m benchmarks.histories.main --histories 10000 --out histories.json
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

from benchmarks.histories.cloud import Actor, Evidence, Faults, Turns, World
from common.command_line import command_parser
from common.files import user_path, write_whole
from common.objects import Stored
from common.terminal import Progress, terminal
from infra.release.aws.function import LambdaFunction
from infra.release.commands import rollback
from infra.release.commands.command import Terminal
from infra.release.errors import ReleaseError
from infra.release.rollout.context import ReleaseContext
from infra.release.rollout.preflight import Image
from infra.release.rollout.rollout import Rollout, Wanted
from infra.release.settings import Settings, parse_settings
from infra.release.state.lease import Lease
from infra.release.state.ledger import ENDS, Ledger, Record
from infra.release.verdict.engine import Verdict
from infra.release.verdict.evidence import Evidence as Seen

SETTINGS: Settings = parse_settings(
    """
    most_hold_s = 300
    watch_s = 30
    [canary]
    weights = [0.1, 0.5]
    bake_s = 120
    look_s = 60
    """
)
GOOD, BETTER, HARMFUL = (f"sha256:{letter * 64}" for letter in "abc")
FIRST = f"sha256:{'0' * 64}"  # previously live
CLOCKS_S = 600.0
_WRITTEN_EVERY = 50  # histories
# Allowed transitions within a release; one that has ended is followed by the next.
_FOLLOWS: Mapping[str, frozenset[str]] = {
    "begin": frozenset({"publish", "failed", "roll back"}),
    "publish": frozenset({"test", "failed", "roll back"}),
    "test": frozenset({"shift", "stop", "unchanged", "promoted", "roll back", "promote"}),
    # "rolled back" at once: an unavailable ledger must not keep callers on a harmful version.
    "shift": frozenset({"shift", "look", "stop", "promote", "roll back", "rolled back"}),
    "look": frozenset({"look", "shift", "stop", "promote", "roll back", "rolled back"}),
    "stop": frozenset({"shift", "roll back"}),
    "promote": frozenset({"promoted", "roll back", "rolled back"}),
    "roll back": frozenset({"rolled back", "roll back"}),
}


class Broken(AssertionError):
    """An invariant is violated; the message says which, and by which seed."""


@dataclass(frozen=True)
class History:
    """The result of one generated history."""

    results: tuple[str, ...]  # by manager
    records: tuple[str, ...]  # kinds, in order
    moves: int


def run_history(seed: int) -> History:
    """Runs one history, determined by its seed.

    Raises:
        Broken: a traffic split remains, a version is lost, or the ledger is not linear.
    """
    chance = random.Random(seed)
    faults = Faults(
        busy=chance.choice((0, 0, 0.02, 0.1)),
        lost=chance.choice((0, 0.01, 0.05)),
        killed=chance.choice((0, 0.003, 0.02)),
    )
    world = World(chance, faults, versions={"1": FIRST}, latest=FIRST)
    turns = Turns(world)
    managers = [f"manager {n}" for n in range(chance.choice((2, 3)))]
    for name in managers:
        if chance.random() < 0.4:
            begins = world.now + chance.uniform(0, 900)
            faults.partitions[name] = begins, begins + chance.uniform(5, 300)
    actors = [Actor(turns, name, _clock(chance), _plan(chance)) for name in managers]
    for actor in actors:
        turns.start(actor, chance.uniform(0, 600))
    turns.run()
    before = _records(world)
    world.faults = Faults()
    last = Actor(turns, "the last", _clock(chance), _finish)
    turns.start(last, 0)
    turns.run()
    records = _records(world)
    try:
        mistakes = [actor.mistake for actor in (*actors, last) if actor.mistake]
        _demand(not mistakes, f"a mistake: {mistakes[:1]}")
        _demand(records[: len(before)] == before, "the ledger was changed")
        _demand_order(records)
        _demand_decisions(world, records)
        _demand_end(world, records)
    except Broken as exc:
        kinds = " ".join(record.decision.kind for record in records)
        said = [actor.result for actor in (*actors, last)]
        raise Broken(f"history {seed}: {exc} ({said}; {kinds}; {world.weights()})") from exc
    decided = tuple(str(record.decision.kind) for record in records)
    return History(tuple(actor.result for actor in actors), decided, len(world.moves))


def _clock(chance: random.Random) -> float:
    return chance.uniform(-CLOCKS_S, CLOCKS_S)


# --- What managers do ---


def _plan(chance: random.Random) -> Callable[[Actor], str]:
    """One or more commands, as people and CI repeat failed ones."""
    works = [
        _deploy(
            chance.choice((GOOD, GOOD, BETTER, HARMFUL)),
            take_over=chance.random() < 0.4,
            apply_s=chance.choice((5, 90, 200)),
        )
        if chance.random() < 0.75
        else _roll_back
        for _ in range(chance.choice((1, 1, 2, 3)))
    ]
    pauses = [chance.uniform(1, 200) for _ in works]

    def work(actor: Actor) -> str:
        results = []
        for one, pause_s in zip(works, pauses, strict=True):
            results.append(one(actor))
            actor.sleep(pause_s)
        return ", ".join(results)

    return work


def _deploy(image: str, *, take_over: bool, apply_s: float) -> Callable[[Actor], str]:
    def work(actor: Actor) -> str:
        def apply(_: str) -> None:
            actor.sleep(apply_s)
            actor.turns.world.latest = image

        wanted = Wanted(Image(f"kiln@{image}", "kiln", image), "canary", again=take_over)
        context = _context(actor)
        try:
            with context.lease.held(actor.name, f"deploy {image[:9]}", take_over):
                return Rollout(context, wanted, None, apply).run().kind
        except ReleaseError as exc:
            return type(exc).__name__

    return work


def _roll_back(actor: Actor) -> str:
    options = Namespace(env="dev", to=None, dry_run=False, reason="by chance", actor=actor)
    console = Console(file=StringIO())
    terminal_ = Terminal(console, console, is_json=True, agreed=True)
    try:
        return str(rollback.rollback(options, terminal_, _no_terraform).data["outcome"])
    except ReleaseError as exc:
        return type(exc).__name__


def _finish(actor: Actor) -> str:
    """The last manager ends what was begun: by the same image, or by a rollback."""
    journal = _context(actor).journal()
    now = journal.unfinished
    if now and actor.turns.world.random.random() < 0.5:
        return _deploy(now.digest, take_over=True, apply_s=5)(actor)
    return _roll_back(actor)


def _no_terraform(*_: object) -> Any:
    raise AssertionError("nothing asks for it here")


def _context(actor: Actor) -> ReleaseContext:
    """A context like ReleaseContext.open's, without output, notices and metrics."""
    aws = actor.aws
    store = aws.bucket("ledgers", "dev")
    nothing: Any = SimpleNamespace(
        **dict.fromkeys(("event", "wait", "plan", "verdict", "measure", "tell"), _ignore),
        shown=nullcontext,
    )
    collector: Any = Evidence(actor, lambda image: image == HARMFUL)
    outputs: Any = SimpleNamespace(alarm_names=(), page_alarm_names=(), drift_alarm=None)
    return ReleaseContext(
        env="dev",
        who=actor.name,
        settings=SETTINGS,
        outputs=outputs,
        aws=aws,
        function=LambdaFunction(aws, "kiln-dev", "live"),
        ledger=Ledger(store),
        lease=Lease(store, SETTINGS.lease_s, actor.now),
        collector=collector,
        notices=nothing,
        timeline=nothing,
        clock=actor,
    )


def _ignore(*_: object, **__: object) -> None:
    """Replaces console output."""


def _verdict(evidence: Seen, *_: object) -> Verdict:
    """The verdict engine has its own simulation."""
    failed = sum(window.candidate.errors for window in evidence.windows)
    return Verdict("roll back" if failed else "promote", ("errors: as drawn",), ())


class _Inline:
    """A thread pool without threads: each manager runs one thread at a time."""

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> _Inline:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, do: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return [do(item) for item in items]


class _Never:
    """Replaces the thread that renews a lease, whose waits are not virtual. Leases expire all the
    more often.
    """

    def __init__(self, **_: object) -> None:
        pass

    start = join = _ignore


@contextmanager
def virtual() -> Iterator[None]:
    """Replaces what waits or computes in real time."""
    of_lease = SimpleNamespace(Lock=threading.Lock, Event=threading.Event, Thread=_Never)
    with ExitStack() as stack:
        for name, by in (
            ("infra.release.state.lease.threading", of_lease),
            ("infra.release.state.lease._machine", lambda: ""),
            ("infra.release.rollout.looks.judge", _verdict),
            ("common.ledger.ThreadPoolExecutor", _Inline),
            ("infra.release.commands.rollback.open_context", lambda o, *_: _context(o.actor)),
        ):
            stack.enter_context(patch(name, by))
        yield


# --- What must hold ---


class _Objects:
    """Reads the stored ledger without taking turns."""

    url = "s3://ledgers/dev"

    def __init__(self, world: World) -> None:
        self._objects = world.objects

    def read(self, key: str) -> bytes:
        return self._objects[f"dev/{key}"][0]

    def entries(self, prefix: str, after: str = "") -> list[Stored]:
        keys = sorted(key.removeprefix("dev/") for key in self._objects)
        return [Stored(key, 0, 0) for key in keys if key.startswith(prefix) and key > after]


def _records(world: World) -> list[Record]:
    store: Any = _Objects(world)
    try:
        return Ledger(store).records()
    except ReleaseError as exc:
        raise Broken(f"the chain is broken: {exc}") from exc


def _demand(holds: bool, what: str) -> None:
    if not holds:
        raise Broken(what)


def _demand_order(records: Sequence[Record]) -> None:
    """Releases follow one another, each in the order of its steps."""
    last, release = "", ""
    for decision in (record.decision for record in records):
        if decision.kind == "go on":
            continue
        if last in ("", *ENDS):
            _demand(decision.kind in ("begin", "roll back"), f"{decision.kind} behind an end")
        else:
            _demand(decision.release == release, f"{decision.kind} of another release")
            _demand(decision.kind in _FOLLOWS[last], f"{decision.kind} behind {last}")
        last, release = decision.kind, decision.release


def _demand_decisions(world: World, records: Sequence[Record]) -> None:
    """The alias moved only to targets recorded before."""
    decided = [record.decision.weights for record in records]
    for weights, there in world.moves:
        _demand(weights in decided[:there], f"the alias was moved to {weights} undecided")
    for decision in (record.decision for record in records):
        if decision.kind == "promoted":
            version = str(decision.to_version)
            _demand(world.versions.get(version) != HARMFUL, f"harmful version {version} promoted")
        if decision.kind == "publish":
            image = world.versions.get(str(decision.to_version))
            _demand(image == decision.to_digest, f"version {decision.to_version} is {image}")


def _demand_end(world: World, records: Sequence[Record]) -> None:
    weights = world.weights()
    _demand(len(weights) == 1, "a split is left behind")
    (live,) = weights
    _demand(live in world.versions, "the live version does not exist")
    _demand(world.versions[live] != HARMFUL, "the live version is harmful")
    if records:
        newest = records[-1].decision
        _demand(newest.kind in ENDS, f"a release was left at {newest.kind}")
        _demand(newest.weights == weights, f"the ledger ends with {newest.weights}")


# --- The program ---


@dataclass
class HistoryResults:
    """Outcomes of the histories with the seeds from `first` to below `next`."""

    first: int
    next: int
    results: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    moves: int = 0
    broken: list[str] = field(default_factory=list)
    took_s: float = 0.0

    def run_next(self) -> None:
        """Runs the history of one more seed."""
        begin = time.monotonic()
        try:
            history = run_history(self.next)
        except Broken as exc:
            self.broken.append(str(exc))
        else:
            self.results.update(r for some in history.results for r in some.split(", "))
            self.kinds.update(history.records)
            self.moves += history.moves
        self.next += 1
        self.took_s += time.monotonic() - begin


def _tally(first: int, file: Path | None) -> HistoryResults:
    """The results of an earlier run, which this one continues; empty if there are none."""
    if file is None or not file.exists():
        return HistoryResults(first, first)
    known = json.loads(file.read_bytes())
    results, kinds = Counter(known.pop("results")), Counter(known.pop("kinds"))
    found = HistoryResults(**known, results=results, kinds=kinds)
    if found.first != first:
        raise ValueError(f"{file} begins with seed {found.first}, not {first}: name another file")
    return found


def main(arguments: Sequence[str], console: Console) -> int:
    """Runs histories and prints the outcomes; returns the exit code."""
    parser = command_parser("//benchmarks/histories:main", __doc__)
    parser.add_argument("--histories", type=int, default=1000, metavar="N", help="(%(default)s)")
    parser.add_argument("--from", type=int, default=0, metavar="SEED", dest="first", help="(0)")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="results; an interrupted run continues from them",
    )
    options = parser.parse_args(arguments)
    file = user_path(options.out) if options.out else None
    try:
        tally = _tally(options.first, file)
    except ValueError as exc:
        parser.error(str(exc))
    end = options.first + options.histories
    with virtual(), Progress("running histories", options.histories, console=console) as progress:
        progress.advance(tally.next - options.first)
        while tally.next < end:
            tally.run_next()
            progress.advance(1)
            if file and (tally.next % _WRITTEN_EVERY == 0 or tally.next >= end):
                write_whole(file, json.dumps(vars(tally), indent=1) + "\n")
    _show(tally, console)
    return int(bool(tally.broken))


def _show(tally: HistoryResults, console: Console) -> None:
    ended = tally.next - tally.first
    title = f"{ended:,} histories, {len(tally.broken):,} broken, {tally.took_s:.0f} s"
    table = Table("commands ended with", "times", title=title, title_justify="left")
    for result, count in tally.results.most_common():
        table.add_row(result, f"{count:,}")
    console.print(table)
    decided = ", ".join(f"{count:,} {kind}" for kind, count in tally.kinds.most_common())
    console.print(f"{tally.moves:,} moves of the alias; records: {decided}", highlight=False)
    for text in tally.broken[:20]:
        console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal(120)))
