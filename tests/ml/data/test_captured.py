"""ml/data/captured.py: labelled captures become a dataset version, the same for the same labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from common.captures import Capture, Captures, Label
from ml.data.captured import CapturedData, forget_packed, is_live_test
from ml.data.checks import open_data
from ml.data.cifar10 import CLASSES, DatasetError
from ml.data.datamodule import CIFAR10
from ml.training.config import composed
from tests.ml.data.small_dataset import write_dataset, write_photos
from tests.ml.labels.store import NOON, answer, coloured, filled, request_id

LATER = "2026-10-01"
LIVE = [number for number in range(40) if is_live_test(request_id(number), 0.3)]


@pytest.fixture
def base(tmp_path: Path) -> CIFAR10:
    folder = write_dataset(tmp_path / "dataset", train=100, test=20)
    return CIFAR10(batch_size=10, validation_size=20, epochs=1, seed=0, folder=folder)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KILN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "captures"


def grainy(number: int) -> np.ndarray:
    """An image like no other: coarse patches of its own."""
    random = np.random.default_rng(1000 + number)
    return random.integers(0, 255, (8, 8, 3), np.uint8).repeat(4, axis=0).repeat(4, axis=1)


def labelled(folder: Path, rows: list[Capture], names: list[str | None] | None = None) -> Captures:
    captures = filled(folder, rows)
    for row, name in zip(rows, names or [CLASSES[row.answer] for row in rows], strict=True):
        captures.say(Label(*row.key, name, "ada", row.time + 1, 0.25))
    return captures


def opened(base: CIFAR10, store: Path, **more: Any) -> CapturedData:
    own = {"batch_size": 10, "validation_size": 20, "epochs": 1, "seed": 0, "until": LATER}
    return CapturedData(base=base, captures=str(store), **{**own, **more})


def rows_of(numbers: range) -> list[Capture]:
    return [answer(number, pixels=grainy(number)) for number in numbers]


def test_captures_join_the_training_part_and_a_share_of_requests_stays_out(
    base: CIFAR10, store: Path
) -> None:
    labelled(store, rows_of(range(40)))
    data = opened(base, store)
    assert 5 < len(LIVE) < 20
    train = data.train_images()
    assert len(train.labels) == 80 + 40 - len(LIVE)
    assert len(data.validation_images().labels) == 20
    assert len(data.test_images().labels) == 20
    live = data.live_test()
    assert sorted(int(one, 16) for one, _ in live.keys) == LIVE
    assert live.weights == pytest.approx(1 / (0.5 * 0.25))
    assert live.drawn.all()
    trained = {image.tobytes() for image in np.asarray(train.pixels)}
    assert not trained & {image.transpose(2, 0, 1).tobytes() for image in live.images}
    for key, image, label in zip(live.keys, live.images, live.labels, strict=True):
        assert np.array_equal(image, grainy(int(key[0], 16)))
        assert label == int(key[0], 16) % 10


def test_validation_and_test_images_are_the_bases(base: CIFAR10, store: Path) -> None:
    labelled(store, rows_of(range(40)))
    data = opened(base, store)
    for part in ("validation_images", "test_images"):
        ours, theirs = getattr(data, part)(), getattr(base, part)()
        assert np.array_equal(ours.pixels, theirs.pixels)
        assert np.array_equal(ours.labels, theirs.labels)


def test_alone_repeated_and_beside_a_part_of_the_base(base: CIFAR10, store: Path) -> None:
    labelled(store, rows_of(range(40)))
    own = 40 - len(LIVE)
    assert len(opened(base, store, alone=True).train_images().labels) == own
    assert len(opened(base, store, repeat=3).train_images().labels) == 80 + 3 * own
    assert len(opened(base, store, train_size=20).train_images().labels) == 20 + own


def test_what_the_base_left_out_stays_unseen(base: CIFAR10, store: Path) -> None:
    labelled(store, rows_of(range(40)))
    base.train_size, own = 20, 40 - len(LIVE)
    seen = {image.tobytes() for image in np.asarray(base.train_images().pixels)}
    for size in (20, 10):
        data = opened(base, store, train_size=size)
        images = np.asarray(data.train_images().pixels)
        assert len(images) == size + own
        assert len(seen & {image.tobytes() for image in images}) == size


def test_the_same_labels_make_the_same_version_elsewhere_and_other_labels_another(
    base: CIFAR10, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captures = labelled(store, rows_of(range(40)))
    first = opened(base, store)
    assert opened(base, store).packed.folder == first.packed.folder
    captures.say(Label(request_id(1), 0, "ship", "ada", NOON + 1e5))
    early = opened(base, store, until="2026-09-22T00:00:00Z")  # before that was said
    assert (early.digest, early.packed.folder == first.packed.folder) == (first.digest, False)
    assert opened(base, store, until="2026-09-30").digest != first.digest
    assert opened(base, store, alone=True).digest != first.digest
    monkeypatch.setenv("KILN_CACHE", str(tmp_path / "elsewhere"))
    again = opened(base, store, until="2026-09-22T00:00:00Z")
    for name in ("train.bin", "test.bin"):
        assert (again.packed.folder / name).read_bytes() == (
            first.packed.folder / name
        ).read_bytes()
    pinned = opened(base, tmp_path / "gone", folder=str(first.packed.folder))
    assert pinned.digest == first.digest


def test_copies_and_near_duplicates_are_left_out_and_counted(base: CIFAR10, store: Path) -> None:
    parts = (np.asarray(base.read(part)[0]) for part in ("train", "test"))
    train, test = (images.transpose(0, 2, 3, 1) for images in parts)
    rows = rows_of(range(40))
    outside = [number for number in range(40) if number not in LIVE]
    shown = {
        outside[0]: train[3],  # a training image
        outside[1]: test[4],  # a test image
        outside[2]: np.clip(test[5].astype(int) + 2, 0, 255).astype(np.uint8),  # brighter
        outside[3]: grainy(LIVE[0]),  # what the live test shows
        outside[4]: grainy(outside[5]),  # another capture's
    }
    for number, pixels in shown.items():
        rows[number] = answer(number, pixels=pixels)
    labelled(store, rows)
    data = opened(base, store)
    assert data.packed.facts["left_out"] == {
        "copies of another capture": 1,
        "copies of training images": 1,
        "near-duplicates of test images": 2,
        "shown by the live test too": 1,
    }
    assert data.packed.count("train") == len(outside) - 5
    kept = opened(base, store, near_duplicates="keep")
    assert kept.packed.facts["left_out"]["near-duplicates of test images"] == 1  # the very image


def test_what_cannot_be_used_is_left_out_and_counted(base: CIFAR10, store: Path) -> None:
    rows = [*rows_of(range(38)), answer(38, pixels=coloured(1, 1, 16)), answer(39)]
    rows += [msgspec.structs.replace(answer(n), image=b"no PNG") for n in (40, 41)]
    names = [*[CLASSES[n % 10] for n in range(39)], "zebra", "cat", "cat"]
    captures = labelled(store, rows, [*names])
    captures.say(Label(request_id(0), 0, "ship", "ben", NOON + 60, 0.25))
    captures.say(Label(request_id(1), 0, None, "ada", NOON + 60))
    data = opened(base, store)
    left = data.packed.facts["left_out"]
    assert (left["disputed"], left["of other classes"], left["of another size"]) == (1, 1, 1)
    assert left["damaged"] == 2
    assert data.packed.count("train") + data.packed.count("test") == 36


@pytest.mark.parametrize(
    "more",
    [
        {"captures": "gs://bucket"},
        {"until": "yesterday"},
        {"until": "2020-01-01"},
        {"near_duplicates": "perhaps"},
        {"folder": "nowhere"},
    ],
)
def test_what_gives_no_version_is_refused(base: CIFAR10, store: Path, more: dict[str, Any]) -> None:
    labelled(store, rows_of(range(5)))
    arguments = {"captures": str(store), **more}
    with pytest.raises(DatasetError):
        opened(base, Path(arguments.pop("captures")), **arguments)


def test_a_request_can_be_forgotten_in_the_cache_too(base: CIFAR10, store: Path) -> None:
    labelled(store, rows_of(range(40)))
    folder = opened(base, store).packed.folder
    assert forget_packed(request_id(99)) == []
    assert forget_packed(request_id(5)) == [folder]
    assert not folder.exists()


def test_another_dataset_needs_configuration_alone(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = ("0", "1", "2")
    write_photos(tmp_path / "photos", classes, each=12)
    rows = [
        answer(number, classes=3, pixels=coloured(number % 3, 500 + number, 16))
        for number in range(40)
    ]
    labelled(store, rows, [classes[number % 3] for number in range(40)])
    monkeypatch.setenv("KILN_CAPTURE", str(store))
    cfg = composed(
        [
            "data=captured",
            "data@data.base=folder",
            f"data.base.folder={tmp_path}/photos",
            "data.base.image_size=16",
            "data.near_duplicates=keep",
            "data.base.batch_size=8",
        ]
    )
    data = open_data(cfg)
    assert (data.classes, data.image_size, data.resize) == (classes, (16, 16), "crop")
    assert len(data.train_images().labels) == len(data.base.train_images().labels) + 40 - len(LIVE)
