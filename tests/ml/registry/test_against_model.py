"""A registry against a plain model of it: any sequence of actions, by two writers, ends alike."""

import shutil
import tempfile
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from common.objects import Conflict
from ml.registry.ledger import RegistryError
from ml.registry.registry import Registry
from tests.ml.registry.artifacts import artifact, version_of

WEIGHTS = st.sampled_from("abcde")
ALIASES = st.sampled_from(["champion", "challenger"])
WRITERS = st.integers(0, 1)


class Plain:
    """What a registry should do, in a dozen lines: versions, aliases, a stack for each alias."""

    def __init__(self) -> None:
        self.versions: set[str] = set()
        self.stacks: dict[str, list[str | None]] = {}
        self.records: list[tuple[str, str, str | None]] = []
        self.images: dict[str, str] = {}

    def at(self, alias: str) -> str | None:
        return (self.stacks.get(alias) or [None])[-1]

    def move(self, kind: str, alias: str, target: str | None) -> bool:
        """False if there is nothing to do."""
        if self.at(alias) == target:
            return False
        stack = self.stacks.setdefault(alias, [])
        if kind == "rollback" and target in stack:
            while stack[-1] != target:
                stack.pop()
        else:
            stack.append(target)
        self.records.append((kind, alias, target))
        return True

    def moved_since(self, alias: str, number: int) -> bool:
        return any(kind != "refused" and name == alias for kind, name, _ in self.records[number:])


class RegistryMachine(RuleBasedStateMachine):
    """Two writers share a registry; decisions may be old when they are carried out."""

    decisions = Bundle("decisions")

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="kiln-registry-")
        self.writers = [Registry.open(self.folder, who=f"writer {n}") for n in range(2)]
        self.plain = Plain()

    @rule(writer=WRITERS, weights=WEIGHTS)
    def register(self, writer: int, weights: str) -> None:
        manifest, new = self.writers[writer].register(artifact(weights))
        assert new == (manifest.version not in self.plain.versions)
        self.plain.versions.add(manifest.version)

    @rule(target=decisions, weights=WEIGHTS, alias=ALIASES)
    def decide(self, weights: str, alias: str) -> tuple[int, str, str]:
        return self.writers[0].state().number, version_of(weights), alias

    @rule(writer=WRITERS, decision=consumes(decisions))
    def promote(self, writer: int, decision: tuple[int, str, str]) -> None:
        seen, version, alias = decision
        registry = self.writers[writer]
        try:
            done = registry.promote(version, alias, seen=seen) is not None
        except Conflict:
            assert self.plain.moved_since(alias, seen)
            assert self.plain.at(alias) != version
        except RegistryError:
            assert version not in self.plain.versions
        else:
            assert not done or not self.plain.moved_since(alias, seen)
            assert done == self.plain.move("promote", alias, version)

    @rule(writer=WRITERS, weights=WEIGHTS, alias=ALIASES)
    def refuse(self, writer: int, weights: str, alias: str) -> None:
        version = version_of(weights)
        if version in self.plain.versions:
            self.writers[writer].promote(version, alias, verdict="refused")
            self.plain.records.append(("refused", alias, version))

    @rule(writer=WRITERS, alias=ALIASES)
    def roll_back(self, writer: int, alias: str) -> None:
        stack = self.plain.stacks.get(alias, [])
        target = stack[-2] if len(stack) > 1 else None
        try:
            self.writers[writer].rollback(alias)
        except RegistryError:
            assert target is None
        else:
            assert target is not None
            self.plain.move("rollback", alias, target)

    @rule(writer=WRITERS, alias=ALIASES, weights=WEIGHTS)
    def roll_back_to(self, writer: int, alias: str, weights: str) -> None:
        try:
            done = self.writers[writer].rollback(alias, version_of(weights)) is not None
        except RegistryError:
            assert version_of(weights) not in self.plain.versions
        else:
            assert done == self.plain.move("rollback", alias, version_of(weights))

    @rule(writer=WRITERS, alias=ALIASES)
    def remove(self, writer: int, alias: str) -> None:
        done = self.writers[writer].move(alias, None, kind="remove", verdict="unchecked")
        assert (done is not None) == self.plain.move("remove", alias, None)

    @rule(writer=WRITERS, weights=WEIGHTS, number=st.integers(0, 2))
    def link(self, writer: int, weights: str, number: int) -> None:
        image, version = f"sha256:{number:064x}", version_of(weights)
        held = self.plain.images.get(image)
        try:
            _, new = self.writers[writer].link_image(image, version)
        except Conflict:
            assert held not in (None, version)
        except RegistryError:
            assert version not in self.plain.versions
        else:
            assert new == (held is None)
            self.plain.images[image] = version

    @invariant()
    def everybody_sees_the_same(self) -> None:
        if not hasattr(self, "plain"):
            return
        expected = {a: s[-1] for a, s in self.plain.stacks.items() if s and s[-1] is not None}
        for registry in self.writers:
            assert dict(registry.state().aliases) == expected
            assert set(registry.versions.names()) == self.plain.versions
            for alias, target in expected.items():
                assert registry.resolve(alias) == target
        history: Any = [
            (r.move.kind if r.move.moved else "refused", r.move.alias, r.move.target)
            for r in self.writers[0].history()
        ]
        assert history == self.plain.records
        assert {i.digest: i.version for i in self.writers[1].images.all()} == self.plain.images
        assert self.writers[1].ledger.problems() == []

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


RegistryMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
test_a_registry_does_what_its_model_does = RegistryMachine.TestCase
