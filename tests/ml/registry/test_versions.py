"""ml/registry/versions.py: who comes second, and bytes that are not what was kept."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from common.objects import Conflict, Damaged, FolderStore
from ml.registry.ledger import RegistryError
from ml.registry.versions import Act, Image, Images, Lineage, Manifest, Versions, Weights
from tests.ml.registry.artifacts import artifact, version_of

NOTHING = Lineage()


def act(second: int, who: str = "ada") -> Act:
    return Act(who, f"2026-01-02T03:04:{second:02}.000+00:00", "why")


class Overtaken(FolderStore):
    """Just before an object is created, somebody else does something."""

    before: Callable[[str], None] | None = None

    def create(self, key: str, data: bytes) -> bool:
        if self.before:
            before, self.before = self.before, None
            before(key)
        return super().create(key, data)


@pytest.fixture
def store(tmp_path: Path) -> Overtaken:
    return Overtaken(tmp_path)


def rewrite(store: FolderStore, manifest: Manifest) -> None:
    key = f"versions/{manifest.version}.json"
    store.delete(key)
    store.create(key, manifest.to_json())


def test_of_two_registrations_at_once_one_is_kept(store: Overtaken, tmp_path: Path) -> None:
    faster = Versions(FolderStore(tmp_path))
    store.before = lambda _: faster.add(artifact("a"), NOTHING, act(1, "grace")) and None
    manifest, new = Versions(store).add(artifact("a"), NOTHING, act(2))
    assert (manifest.registered.who, new) == ("grace", False)
    assert [entry.key for entry in store.entries("models/")] == [manifest.file.key]
    assert Versions(store).model(manifest.version) == artifact("a")


def test_the_slower_of_two_origins_is_told(store: Overtaken, tmp_path: Path) -> None:
    faster = Versions(FolderStore(tmp_path))
    store.before = lambda _: faster.add(artifact("a"), NOTHING, act(1, "grace")) and None
    with pytest.raises(Conflict) as refusal:
        Versions(store).add(artifact("a", device="gpu", name="stones"), NOTHING, act(2))
    for told in (
        version_of("a")[:12],
        "grace",
        "2026-01-02T03:04:01.000+00:00",
        "(name pebbles, here stones; device cpu, here gpu)",
    ):
        assert told in str(refusal.value)
    assert len(store.entries("models/")) == 1


def test_metadata_that_no_manifest_lists_is_another_origin_too(store: Overtaken) -> None:
    versions = Versions(store)
    versions.add(artifact("a"), NOTHING, act(1))
    with pytest.raises(Conflict, match=r"\(other metrics\)"):
        versions.add(artifact("a", precision="16-mixed"), NOTHING, act(2))


def test_versions_are_listed_oldest_first(store: Overtaken) -> None:
    versions = Versions(store)
    for weights, second in (("a", 2), ("b", 1), ("c", 2), ("d", 2)):
        versions.add(artifact(weights), NOTHING, act(second))
    same_second = sorted(version_of(weights) for weights in "acd")
    assert [m.version for m in versions.manifests()] == [version_of("b"), *same_second]
    assert versions.names() == sorted([version_of("b"), *same_second])
    assert versions.names(version_of("a")[:6]) == [version_of("a")]


@pytest.mark.parametrize("data", [b"", b"[]", b"7", b"{}", b'{"schema": 1}'])
def test_what_is_no_manifest_is_damage(store: Overtaken, data: bytes) -> None:
    store.create("versions/abcd.json", data)
    with pytest.raises(Damaged, match=r"^versions/abcd\.json"):
        Versions(store).find("abcd")


def test_a_model_is_read_as_what_was_registered_or_not_at_all(store: Overtaken) -> None:
    versions = Versions(store)
    a, _ = versions.add(artifact("a"), NOTHING, act(1))
    b, _ = versions.add(artifact("b"), NOTHING, act(1))
    rewrite(store, replace(a, file=b.file))
    with pytest.raises(Damaged, match=f"{b.version}"):
        versions.model(a.version)
    store.create("models/text", b"text")
    digest = hashlib.sha256(b"text").hexdigest()
    rewrite(store, replace(a, file=replace(a.file, key="models/text", sha256=digest)))
    with pytest.raises(Damaged, match=r"^models/text "):
        versions.model(a.version)
    rewrite(store, replace(a, file=replace(a.file, key="models/gone")))
    with pytest.raises(Damaged, match=r"models/gone "):
        versions.model(a.version)
    with pytest.raises(RegistryError, match="ffff"):
        versions.model("ffff")


def test_a_manifest_says_which_bytes_it_means(store: Overtaken) -> None:
    data = artifact("a")
    manifest, _ = Versions(store).add(data, NOTHING, act(1))
    assert (manifest.file.size, manifest.file.sha256) == (
        len(data),
        hashlib.sha256(data).hexdigest(),
    )
    assert manifest.file.key.startswith(f"models/{manifest.version}-")
    assert len(manifest.file.key) == len(f"models/{manifest.version}-.onnx") + 8
    text = manifest.to_json().decode()
    assert text.endswith("}\n")
    assert json.loads(text)["schema"] == 1
    named = replace(manifest, registered=replace(manifest.registered, why="größer"))
    assert "größer" in named.to_json().decode()
    endless = replace(manifest, lineage=Lineage(summary={"loss": float("nan")}))
    with pytest.raises(ValueError, match="JSON"):
        endless.to_json()


def digest(start: str) -> str:
    return f"sha256:{start:0<64}"


def test_links_are_listed_oldest_first_and_found_by_their_start(store: Overtaken) -> None:
    images = Images(store)
    for start, second in (("aa", 3), ("ab", 1), ("b", 2)):
        image, new = images.add(Image(digest(start), "v" + start, act(second)))
        assert new
        assert images.find(image.digest) == image
    assert [image.version for image in images.all()] == ["vab", "vb", "vaa"]
    assert images.digests() == [digest("aa"), digest("ab"), digest("b")]
    assert images.find("sha256:b").version == "vb"
    with pytest.raises(RegistryError, match=r"sha256:a .* 2 images"):
        images.find("sha256:a")
    with pytest.raises(RegistryError, match=r"sha256:c .* 0 images .*`link`"):
        images.find("sha256:c")


@pytest.mark.parametrize("wrong", ["a" * 64, digest("g"), digest("")[:-1], digest("") + "0"])
def test_what_is_no_digest_is_not_linked(store: Overtaken, wrong: str) -> None:
    with pytest.raises(RegistryError, match=f"^{wrong} "):
        Images(store).add(Image(wrong, "v", act(1)))


@pytest.mark.parametrize("data", [b"", b"[]", b"7", b"{}", b'{"linked": {}}'])
def test_what_is_no_link_is_damage(store: Overtaken, data: bytes) -> None:
    store.create(f"images/{digest('a')[7:]}.json", data)
    with pytest.raises(Damaged, match=r"^images/a0*\.json"):
        Images(store).all()


def test_weights_are_kept_once_for_a_version_and_by_their_digest(store: Overtaken) -> None:
    weights = Weights(store)
    assert weights.of("ab") is None
    assert (weights.add("ab", b"first"), weights.add("ab", b"second")) == (True, False)
    assert weights.of("ab") == b"first"
    (entry,) = store.entries("weights/")
    store.delete(entry.key)
    store.create(entry.key, b"other")
    with pytest.raises(Damaged, match="another SHA-256"):
        weights.of("ab")
