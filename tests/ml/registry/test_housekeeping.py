"""ml/registry/registry.py: damage of every kind is found, only leftovers go."""

import json
import os
import time
from pathlib import Path

import pytest

from common.objects import Damaged
from ml.registry.registry import Registry, collect, inspect
from tests.ml.registry.artifacts import artifact

IMAGE = "sha256:" + "12ab" * 16


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry.open(str(tmp_path), who="ada")
    registry.promote(registry.register(artifact("a"))[0].version)
    registry.link_image(IMAGE, registry.resolve("champion"))
    registry.move("live/prod", IMAGE, kind="deploy", verdict="healthy")
    return registry


def replace(registry: Registry, key: str, data: bytes) -> None:
    registry.store.delete(key)
    registry.store.create(key, data)


def test_a_sound_registry_has_no_problems(registry: Registry) -> None:
    found = inspect(registry)
    assert (found.versions, found.records, found.images) == (1, 2, 1)
    assert (found.problems, found.leftovers) == ((), ())


def test_every_kind_of_damage_is_named(registry: Registry) -> None:
    version = registry.resolve("champion")
    model = registry.versions.manifest(version).file.key
    for key, problem in [
        (model, "has SHA-256"),
        (f"versions/{version}.json", "manifest"),
        ("ledger/00000001.json", "is not a ledger record"),
        (f"images/{IMAGE[7:]}.json", "link"),
    ]:
        whole = registry.store.read(key)
        replace(registry, key, b"damaged")
        assert any(problem in text for text in inspect(registry).problems), key
        replace(registry, key, whole)
    registry.store.delete(model)
    assert "is missing" in inspect(registry).problems[0]


def test_a_ledger_that_cannot_be_read_has_no_records(registry: Registry) -> None:
    replace(registry, "ledger/00000001.json", b"damaged")
    assert inspect(registry).records == 0


def test_references_to_nothing_are_named(registry: Registry) -> None:
    version = registry.resolve("champion")
    registry.store.delete(f"versions/{version}.json")
    record, image = inspect(registry).problems
    assert record.startswith(f"record 1 names {version}, ")
    assert image.startswith(f"image {IMAGE} holds {version}, ")


def test_only_old_leftovers_go(registry: Registry, tmp_path: Path) -> None:
    leftover, aside = "models/dead-1234.onnx", ".unfinished/0123"
    registry.store.create(leftover, b"half a registration")
    (tmp_path / aside).write_bytes(b"half a file")
    keys = [stored.key for stored in inspect(registry).leftovers]
    assert keys == [aside, leftover]
    assert collect(registry) == []
    os.utime(tmp_path / leftover, (0, time.time() - 24 * 3600 + 60))
    assert collect(registry) == []
    yesterday = time.time() - 24 * 3600 - 1
    for key in (leftover, aside, registry.versions.manifests()[0].file.key):
        os.utime(tmp_path / key, (yesterday, yesterday))
    assert len(collect(registry, dry_run=True)) == 2
    assert [stored.key for stored in collect(registry)] == [aside, leftover]
    assert inspect(registry).leftovers == ()
    assert inspect(registry).problems == ()


def test_nothing_goes_while_a_manifest_cannot_be_read(registry: Registry) -> None:
    version = registry.resolve("champion")
    replace(registry, f"versions/{version}.json", b"damaged")
    with pytest.raises(Damaged, match=rf"^versions/{version}\.json"):
        collect(registry, grace_s=-1)


def test_a_record_of_the_ledger_is_readable_text(registry: Registry) -> None:
    record = json.loads(registry.store.read("ledger/00000002.json"))
    assert (record["alias"], record["from"], record["to"]) == ("live/prod", None, IMAGE)
    assert (record["kind"], record["verdict"], record["who"]) == ("deploy", "healthy", "ada")
