"""ml/registry/registry.py: versions, aliases, images; a folder stands for a bucket, which
test_store.py shows to do the same."""

import itertools
import json
import re
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from common.model.artifact import ArtifactError
from common.objects import Conflict, Damaged, StoreError
from common.stores import open_store
from ml.registry.ledger import RegistryError
from ml.registry.registry import Registry
from ml.registry.versions import Lineage, Manifest, Parent
from tests.ml.registry.artifacts import artifact, version_of

IMAGE = "sha256:" + "12ab" * 16


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "registry")


@pytest.fixture
def registry(folder: str) -> Registry:
    return Registry.open(folder, who="ada")


def add(registry: Registry, weights: str) -> str:
    return registry.register(artifact(weights))[0].version


def test_a_registered_version_says_where_it_comes_from(registry: Registry, folder: str) -> None:
    lineage = Lineage(
        config={"seed": 1, "widths": [32, 64]},
        summary={"training_s": 9.5},
        parents=(Parent("e" * 64, "int8 of"),),
    )
    manifest, new = registry.register(artifact("a"), lineage, why="first try")
    assert new
    read = Registry.open(folder).versions.manifest(version_of("a"))
    assert read == manifest
    assert (read.git_revision, read.test.accuracy) == ("a" * 40, 0.94)
    assert (read.registered.who, read.registered.why) == ("ada", "first try")
    assert read.lineage.config == {"seed": 1, "widths": [32, 64]}
    assert read.lineage.parents[0].relation == "int8 of"
    assert Registry.open(folder).versions.model(read.version) == artifact("a")


def test_the_same_file_again_changes_nothing(registry: Registry) -> None:
    first, _ = registry.register(artifact("a"))
    again, new = registry.register(artifact("a"), why="again")
    assert (again, new) == (first, False)
    assert len(registry.store.entries("models/")) == 1


def test_the_same_weights_from_another_origin_are_a_conflict(registry: Registry) -> None:
    add(registry, "a")
    with pytest.raises(Conflict, match=r"ada .*git_revision a+, .* bbb"):
        registry.register(artifact("a", git_revision="b" * 40))


def test_what_is_no_artifact_is_refused(registry: Registry) -> None:
    with pytest.raises(ArtifactError):
        registry.register(b"<html>")
    assert registry.versions.manifests() == []


def test_aliases_move_and_their_history_is_kept(registry: Registry) -> None:
    a, b = add(registry, "a"), add(registry, "b")
    registry.promote(a, why="the first")
    registry.promote(b, "challenger")
    registry.promote(b, why="better", verdict="passed", evidence={"p": 0.01})
    assert registry.state().aliases == {"champion": b, "challenger": b}
    record = registry.history("champion")[-1]
    assert (record.source, record.move.target, record.move.who) == (a, b, "ada")
    assert (record.move.why, record.move.verdict, record.move.evidence["p"]) == (
        "better",
        "passed",
        0.01,
    )
    assert [r.number for r in registry.history()] == [1, 2, 3]
    assert registry.ledger.problems() == []


def test_promoting_what_is_there_already_writes_nothing(registry: Registry) -> None:
    a = add(registry, "a")
    assert registry.promote(a) is not None
    assert registry.promote(a) is None
    assert len(registry.history()) == 1


def test_a_refused_attempt_is_recorded_and_moves_nothing(registry: Registry) -> None:
    a, b = add(registry, "a"), add(registry, "b")
    registry.promote(a)
    registry.promote(b, verdict="refused", evidence={"gate": "too slow"})
    assert registry.state().aliases == {"champion": a}
    assert registry.history()[-1].move.evidence == {"gate": "too slow"}
    with pytest.raises(RegistryError, match=r"^champion "):
        registry.rollback()


def test_a_verdict_reached_before_another_move_is_a_conflict(registry: Registry) -> None:
    a, b, c = (add(registry, name) for name in "abc")
    registry.promote(a)
    seen = registry.state().number
    registry.promote(c, "challenger", seen=seen)
    Registry(registry.store, who="grace").promote(b, seen=seen)
    with pytest.raises(Conflict, match=rf"grace .*champion .*{b} "):
        registry.promote(c, seen=seen)
    assert registry.promote(b, seen=seen) is None


def test_rollbacks_go_back_one_promotion_each(registry: Registry) -> None:
    a, b, c = (add(registry, name) for name in "abc")
    for version in (a, b, c):
        registry.promote(version)
    for expected in (b, a):
        registry.rollback(why="it burns")
        assert registry.state().aliases["champion"] == expected
    with pytest.raises(RegistryError, match=r"^champion "):
        registry.rollback()
    registry.promote(c)
    registry.rollback()
    assert registry.state().aliases["champion"] == a
    assert registry.history()[-1].move.kind == "rollback"


def test_a_rollback_from_a_named_version_can_be_repeated(registry: Registry) -> None:
    a, b, c = (add(registry, name) for name in "abc")
    for version in (a, b, c):
        registry.promote(version)
    assert registry.rollback(expected=c) is not None
    assert registry.rollback(expected=c) is None
    assert registry.state().aliases["champion"] == b
    with pytest.raises(Conflict, match=f"champion .*{b}, .*{a}"):
        registry.rollback(expected=a)
    assert registry.rollback(expected=b) is not None
    assert registry.rollback(expected=b) is None
    assert registry.state().aliases["champion"] == a


def test_a_rollback_can_name_its_target(registry: Registry) -> None:
    a, b, c = (add(registry, name) for name in "abc")
    for version in (a, b, c):
        registry.promote(version)
    registry.rollback(to=a)
    assert registry.state().aliases["champion"] == a
    with pytest.raises(RegistryError, match=r"^champion "):
        registry.rollback()
    with pytest.raises(RegistryError, match="f" * 64):
        registry.rollback(to="f" * 64)


def test_an_alias_can_go_away_and_come_back(registry: Registry) -> None:
    a = add(registry, "a")
    registry.promote(a, "shadow")
    registry.move("shadow", None, kind="remove", verdict="unchecked")
    assert registry.state().aliases == {}
    registry.rollback("shadow")
    assert registry.state().aliases == {"shadow": a}


def test_references_resolve_to_versions(registry: Registry) -> None:
    a = add(registry, "a")
    registry.promote(a)
    registry.link_image(IMAGE, a)
    registry.move("live/prod", IMAGE, kind="deploy", verdict="healthy")
    for reference in (a, a[:4], "champion", IMAGE, IMAGE[:12], "live/prod"):
        assert registry.resolve(reference) == a
    for reference in (a[:3], "nobody", "f" * 64, "", "ABCD"):
        with pytest.raises(RegistryError):
            registry.resolve(reference)


def test_a_start_that_fits_two_versions_lists_them(registry: Registry) -> None:
    names = sorted(add(registry, str(number)) for number in range(20))
    pair = next((x, y) for x, y in itertools.pairwise(names) if x[0] == y[0])
    with pytest.raises(RegistryError, match=f"{pair[0][:16]}"):
        registry.resolve(pair[0][0])


def test_an_image_keeps_its_version(registry: Registry) -> None:
    a, b = add(registry, "a"), add(registry, "b")
    image, new = registry.link_image(IMAGE, a, why="release 1")
    assert new
    assert registry.link_image(IMAGE, a) == (image, False)
    assert registry.images.all() == [image]
    with pytest.raises(Conflict, match=f"{a}, .*ada"):
        registry.link_image(IMAGE, b)
    with pytest.raises(RegistryError, match=r"^latest "):
        registry.link_image("latest", a)
    with pytest.raises(RegistryError, match="f" * 64):
        registry.link_image(IMAGE, "f" * 64)
    with pytest.raises(RegistryError, match=" 0 images"):
        registry.resolve("sha256:9999")


@pytest.mark.parametrize("alias", ["", "Champion", "beef", "a b", "-x", "a" * 65])
def test_a_name_that_cannot_be_an_alias_is_refused(registry: Registry, alias: str) -> None:
    with pytest.raises(RegistryError, match=re.escape(repr(alias))):
        registry.promote(add(registry, "a"), alias)


@pytest.mark.parametrize("alias", ["x", "x" * 64, "live/prod", "v1.2_b-c", "bee2z"])
def test_a_name_that_no_version_could_have_may_be_an_alias(registry: Registry, alias: str) -> None:
    a = add(registry, "a")
    assert registry.promote(a, alias) is not None
    assert registry.resolve(alias) == a


@pytest.mark.parametrize("data", [b"", b"[]", b"7", b"null", b"{}"])
def test_a_registry_whose_format_is_unreadable_is_refused(folder: str, data: bytes) -> None:
    open_store(folder).create("format.json", data)
    with pytest.raises(StoreError, match=r"format.json"):
        Registry.open(folder)


def test_an_actor_is_named_by_the_environment_or_by_the_machine(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTOR", "octocat")
    monkeypatch.setenv("KILN_ACTOR", "grace")
    assert Registry.open(folder).who == "grace"
    monkeypatch.delenv("KILN_ACTOR")
    assert Registry.open(folder).who == "octocat"
    monkeypatch.delenv("GITHUB_ACTOR")
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    monkeypatch.setattr("socket.gethostname", lambda: "engine")
    assert Registry.open(folder).who == "ada@engine"

    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", unknown)
    monkeypatch.setattr("os.getuid", lambda: 4711)
    assert Registry.open(folder).who == "uid 4711@engine"


def test_a_rollback_that_another_alias_did_is_not_this_ones(registry: Registry) -> None:
    a, b = add(registry, "a"), add(registry, "b")
    for alias in ("champion", "challenger"):
        registry.promote(a, alias)
        registry.promote(b, alias)
    registry.rollback("challenger", expected=b)
    assert registry.rollback("champion", expected=b) is not None
    registry.promote(b)
    registry.promote(a)
    with pytest.raises(Conflict, match=rf"champion .*{a}, .*{b}"):  # promoted away, not rolled back
        registry.rollback(expected=b)


def test_a_changed_model_is_not_promoted(registry: Registry) -> None:
    manifest, _ = registry.register(artifact("a"))
    registry.store.delete(manifest.file.key)
    with pytest.raises(Damaged, match=manifest.file.key):
        registry.promote(manifest.version)
    registry.store.create(manifest.file.key, b"something else")
    with pytest.raises(Damaged, match=sha256(b"something else").hexdigest()):
        registry.promote(manifest.version)
    assert registry.state().aliases == {}


def test_a_damaged_manifest_is_named(registry: Registry) -> None:
    manifest, _ = registry.register(artifact("a"))
    key = f"versions/{manifest.version}.json"
    registry.store.delete(key)
    other = replace(manifest, version=version_of("b"))
    registry.store.create(key, other.to_json())
    with pytest.raises(Damaged, match=r"manifest \(.*it describes"):
        registry.versions.manifests()


def test_a_version_of_an_older_contract_stays_usable(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = add(registry, "a"), add(registry, "b")
    registry.promote(a)
    monkeypatch.setattr("common.model.artifact.SCHEMA", "next")
    registry.promote(b)
    registry.rollback()
    assert registry.versions.model(a) == registry.versions.model(registry.resolve("champion"))
    with pytest.raises(ArtifactError, match="next"):
        registry.register(registry.versions.model(a))


def test_a_store_that_is_away_is_not_called_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with pytest.raises(StoreError, match=r"^s3://bucket/p"):
        Registry.open("s3://bucket/p")


def test_a_changed_record_shows_in_the_chain(registry: Registry) -> None:
    for name in "abc":
        registry.promote(add(registry, name))
    key = "ledger/00000002.json"
    record = json.loads(registry.store.read(key))
    registry.store.delete(key)
    [problem] = registry.ledger.problems()
    assert problem.startswith(f"{key} is missing")
    registry.store.create(key, json.dumps(record | {"who": "mallory"}).encode())
    [problem] = registry.ledger.problems()
    assert problem.startswith(f"{key} was changed: ledger/00000003.json")
    registry.store.delete(key)
    registry.store.create(key, b"{}")
    with pytest.raises(Damaged, match=key):
        registry.history()
    assert key in registry.ledger.problems()[0]


def test_a_record_that_contradicts_the_one_before_shows(registry: Registry) -> None:
    a, b = add(registry, "a"), add(registry, "b")
    registry.promote(a)
    registry.promote(b)
    key = "ledger/00000002.json"
    record = json.loads(registry.store.read(key))
    registry.store.delete(key)
    registry.store.create(key, json.dumps(record | {"from": None}).encode())
    assert registry.ledger.problems() == [f"{key} contradicts the records before it"]


def test_a_registry_of_another_format_is_refused(folder: str) -> None:
    open_store(folder).create("format.json", b'{"format": 2}')
    with pytest.raises(StoreError, match=r"format 2, .*1"):
        Registry.open(folder)


def test_a_store_that_overwrites_is_refused_before_the_first_write() -> None:
    class Overwriting:
        url = "s3://careless"
        objects: dict[str, bytes]

        def __init__(self) -> None:
            self.objects = {}

        def read(self, key: str) -> bytes:
            return self.objects[key]

        def create(self, key: str, data: bytes) -> bool:
            self.objects[key] = data
            return True

        entries = delete = unfinished = None

    careless = Overwriting()
    with pytest.raises(StoreError):
        Registry(careless).register(artifact("a"))  # type: ignore[arg-type]
    assert list(careless.objects) == ["format.json"]


def test_a_release_leaves_the_same_story_in_a_folder_and_in_a_bucket(url: str) -> None:
    registry = Registry.open(url, who="ada")
    a, b = add(registry, "a"), add(registry, "b")
    registry.promote(a)
    registry.promote(b, why="better", verdict="passed")
    registry.link_image(IMAGE, b)
    registry.rollback(expected=b, why="it burns")
    again = Registry.open(url)
    assert again.state().aliases == {"champion": a}
    assert {m.version for m in again.versions.manifests()} == {a, b}
    assert again.resolve(IMAGE[:12]) == b
    assert [(r.move.kind, r.source, r.move.target) for r in again.history()] == [
        ("promote", None, a),
        ("promote", a, b),
        ("rollback", b, a),
    ]
    assert again.ledger.problems() == []


def test_a_manifest_round_trips(registry: Registry) -> None:
    manifest, _ = registry.register(artifact("a"), Lineage(benchmark={"x": [1, 2.5]}))
    assert Manifest.from_json(manifest.to_json()) == manifest
    with pytest.raises(ValueError, match="another release"):
        Manifest.from_json(b'{"schema": 2}')
