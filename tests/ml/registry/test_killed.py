"""Killed at any write, a registry stays whole, and doing it all again ends the same.

A process goes through a model's life and is ended at its first write, at its second, and so on. In
a folder a write is each call that changes something, with half of the bytes written; at an object
store it is each request, and before one is the same as after the one before.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from common import objects
from common.aws import S3Store
from ml.registry.registry import Registry
from tests.ml.registry.artifacts import artifact, version_of
from tests.ml.registry.object_store import BUCKET
from tests.ml.registry.processes import KILLED, start, wait

A, B = version_of("a"), version_of("b")
IMAGE = "sha256:" + "12ab" * 16
CALLS = ("open", "write", "fsync", "close", "link", "unlink", "makedirs")


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to the disk is counted here and not done: it guards against what no kill does."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class Death:
    """Ends the process at its n-th write."""

    def __init__(self, at: int) -> None:
        self.left = at

    def is_due(self) -> bool:
        self.left -= 1
        return self.left == 0


def live(registry: Registry) -> None:
    """Each step can be repeated."""
    registry.register(artifact("a"))
    registry.promote(A, why="the first")
    registry.register(artifact("b"))
    registry.promote(B, verdict="passed", evidence={"p": 0.5})
    registry.link_image(IMAGE, B)
    registry.rollback(expected=B, why="it burns")


def deadly_os(death: Death) -> Any:
    """The module `os`, whose calls that change something may be the last."""

    def deadly(name: str, *arguments: Any, **options: Any) -> Any:
        if death.is_due():
            if name == "write":
                os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
            os._exit(KILLED)
        return getattr(os, name)(*arguments, **options)

    others = {name: getattr(os, name) for name in dir(os) if name not in CALLS}
    return SimpleNamespace(**others, **{name: partial(deadly, name) for name in CALLS})


def live_in_a_folder(url: str, at: int) -> None:
    with mock.patch.object(objects, "os", deadly_os(Death(at))):
        live(Registry.open(url, who="ada"))


def live_in_a_bucket(url: str, at: int) -> None:
    death, registry = Death(at), Registry.open(url, who="ada")
    assert isinstance(registry.store, S3Store)
    client = registry.store.client

    def deadly(request: Callable[..., Any], **options: Any) -> Any:
        if death.is_due():
            os._exit(KILLED)
        return request(**options)

    for name in ("put_object", "delete_object"):
        setattr(client, name, partial(deadly, getattr(client, name)))
    live(registry)


def check_is_whole(registry: Registry) -> None:
    assert registry.ledger.problems() == []
    for manifest in registry.versions.manifests():
        registry.versions.model(manifest.version)
    for target in registry.state().aliases.values():
        registry.versions.model(target)
    for image in registry.images.all():
        registry.versions.model(image.version)


def check_is_complete(registry: Registry) -> None:
    assert registry.ledger.problems() == []
    assert registry.state().aliases == {"champion": A}
    assert registry.resolve(IMAGE) == B
    assert set(registry.versions.names()) == {A, B}
    last = registry.history()[-1]
    assert (last.move.kind, last.source, last.move.target) == ("rollback", B, A)


def check_every_death(live_until: Callable[[str, int], None], place: str) -> int:
    """Goes through deaths at write 1, 2, … until one is survived; returns how many there were."""
    for at in range(1, 1000):
        url = f"{place}/{at}"
        code = wait(start(partial(live_until, url, at)))
        assert code in (0, KILLED)
        registry = Registry.open(url, who="ada")
        check_is_whole(registry)
        before = registry.history()
        if code == 0:
            check_is_complete(registry)
            return at - 1
        live(registry)
        check_is_complete(registry)
        assert registry.history()[: len(before)] == before
    raise AssertionError("it never came to its end")


def test_a_folder_survives_a_kill_at_every_write(tmp_path: Path) -> None:
    assert check_every_death(live_in_a_folder, str(tmp_path)) > 80


def test_a_bucket_survives_a_kill_at_every_request(loopback_s3: None) -> None:
    assert check_every_death(live_in_a_bucket, f"s3://{BUCKET}/killed") >= 9


@pytest.mark.parametrize("alias_at", ["nothing", "a"])
def test_what_a_kill_between_bytes_and_manifest_leaves_is_not_registered(
    tmp_path: Path, alias_at: str
) -> None:
    registry = Registry.open(str(tmp_path))
    if alias_at == "a":
        registry.promote(registry.register(artifact("a"))[0].version)
    versions = registry.versions.names()
    with mock.patch.object(registry.store, "create", side_effect=[True, KeyboardInterrupt]):
        registry._is_prepared = True
        with pytest.raises(KeyboardInterrupt):
            registry.register(artifact("b"))
    assert registry.versions.names() == versions
    assert registry.register(artifact("b"))[1]
