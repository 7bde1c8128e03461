"""ml/data/folder.py and ml/data/packing.py: image files become the pixels that the service sees."""

from __future__ import annotations

import io
import json
import os
import random
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import csv, parquet

from common.images import Codec
from common.model.artifact import Resize
from ml.data import packing
from ml.data.augmentation import Augmentation
from ml.data.cifar10 import DatasetError
from ml.data.datamodule import AugmentedImages
from ml.data.folder import ImageFolder

SIZE = (12, 16)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("KILN_CACHE", str(folder))
    return folder


def picture(seed: int, kind: str = "PNG", **options: Any) -> bytes:
    """A file of a size of its own."""
    chance = np.random.default_rng(seed)
    height, width = chance.integers(8, 60, 2)
    pixels = chance.integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def photos(root: Path, classes: str = "ab", each: int = 10) -> Path:
    """A folder for each class; every file is another image."""
    for label, name in enumerate(classes):
        for number in range(each):
            write(root / name / f"{number}.png", picture(100 * label + number))
    return root


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def opened(root: Path, **values: Any) -> ImageFolder:
    given: dict[str, Any] = {
        "image_size": SIZE,
        "batch_size": 4,
        "validation_size": 0.25,
        "epochs": 2,
        "seed": 0,
    }
    return ImageFolder(folder=root, mirror=False, **given | values)


def test_pixels_are_those_that_the_service_sees_to_the_bit(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    files = {
        "jpeg.jpg": picture(1, "JPEG"),
        "turned.jpeg": picture(2, "JPEG", exif=turned),
        "webp.webp": picture(3, "WEBP"),
        "lies.png": picture(4, "JPEG"),
        "grey.png": picture(5),
    }
    for name, data in files.items():
        write(tmp_path / "a" / name, data)
        write(tmp_path / "b" / name, data + b"\n")
    for resize in get_args(Resize):
        dataset = opened(tmp_path, resize=resize)
        service = Codec(SIZE, 25_000_000, resize)
        expected = {service.decode(one).tobytes() for one in files.values()}
        found = [dataset.read(part)[0].transpose(0, 2, 3, 1) for part in ("train", "test")]
        assert {image.tobytes() for images in found for image in images} == expected


def test_classes_are_the_folders_and_each_gives_its_share_to_the_test(tmp_path: Path) -> None:
    data = opened(photos(tmp_path, "ba"), test_share=0.2)
    assert data.classes == ("a", "b")
    assert np.bincount(data.read("test")[1]).tolist() == [2, 2]
    assert np.bincount(data.train_images().labels).tolist() == [6, 6]
    assert np.bincount(data.validation_images().labels).tolist() == [2, 2]


def test_numbers_are_in_the_order_of_their_value(tmp_path: Path) -> None:
    for seed, name in enumerate(("10", "9", "x", "10", "9", "x")):
        write(tmp_path / name / f"{seed}.png", picture(seed))
    assert opened(tmp_path, batch_size=1).classes == ("9", "10", "x")


def test_names_and_places_change_neither_digest_nor_split_nor_order(tmp_path: Path) -> None:
    one, other = photos(tmp_path / "one"), tmp_path / "other"
    for path in one.rglob("*.png"):
        write(other / path.parent.name / "deep" / f"x{random.random()}.PNG", path.read_bytes())
    first, second = opened(one), opened(other)
    assert first.digest == second.digest
    for part in ("train", "test"):
        for a, b in zip(first.read(part), second.read(part), strict=True):
            np.testing.assert_array_equal(a, b)
    (other / "a").rename(other / "c")
    assert opened(other).digest != first.digest


def test_folders_named_train_val_and_test_are_taken_at_their_word(tmp_path: Path) -> None:
    for part, each in (("train", 6), ("val", 2), ("test", 3)):
        for label, name in enumerate("ab"):
            for number in range(each):
                seed = 1000 * each + 100 * label + number
                write(tmp_path / part / name / f"{number}.png", picture(seed))
    data = opened(tmp_path)
    counts = [len(x.labels) for x in (data.train_images(), data.validation_images())]
    assert [*counts, len(data.test_images().labels)] == [12, 4, 6]


def test_parts_that_differ_in_case_alone_are_all_read(tmp_path: Path) -> None:
    for label, part in enumerate(("train", "Train", "test")):
        for number in range(8):
            path = tmp_path / part / "ab"[number % 2] / f"{number}.png"
            write(path, picture(50 * label + number))
    data = opened(tmp_path)
    assert [sum(data.packed.facts["counts"][part]) for part in ("train", "test")] == [16, 8]


def test_a_table_names_paths_labels_and_parts(tmp_path: Path) -> None:
    photos(tmp_path / "files", "ab", each=6)
    paths = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.png"))
    labels = ["x" if "/a/" in path else "7" for path in paths]
    splits = ["test" if path.endswith("0.png") else "train" for path in paths]
    table = pa.table({"path": paths, "label": labels, "split": splits})
    csv.write_csv(table, tmp_path / "all.csv")
    parquet.write_table(table, tmp_path / "all.parquet")
    by_csv, by_parquet = (opened(tmp_path / f"all.{kind}") for kind in ("csv", "parquet"))
    assert by_csv.classes == by_parquet.classes == ("7", "x")
    assert by_csv.digest == by_parquet.digest
    assert len(by_csv.read("test")[1]) == 2
    csv.write_csv(table.rename_columns(["file", "label", "split"]), tmp_path / "other.csv")
    with pytest.raises(DatasetError, match="'file', 'label', 'split'"):
        opened(tmp_path / "other.csv")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("missing.png,a,train", r"row 3: .*missing\.png$"),
        (",a,train", "row 3: "),
        (" a/0.png,a,train", r"row 3: .*0\.png"),
        (r"a\0.png ,a,train", r"row 3: .*0\.png : .* / "),
        ("a/0.png,,train", r"row 3: a/0\.png .*label"),
        ("a/0.png,a,exam", "'exam'.* train, validation or test"),
        ("a/0.png,a,", "split"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: str, said: str) -> None:
    photos(tmp_path, "ab", each=1)
    rows = ["path,label,split", "a/0.png,a,train", "b/0.png,b,train", row]
    (tmp_path / "all.csv").write_text("\n".join(rows))
    with pytest.raises(DatasetError, match=said):
        opened(tmp_path / "all.csv")


def test_damaged_files_are_listed_and_left_out_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = photos(tmp_path / "photos")
    write(root / "a" / "cut.png", picture(7)[:50])
    write(root / "b" / "empty.jpg", b"")
    write(root / "b" / "scan.tiff", b"II*\0")
    write(root / "b" / "notes.txt", b"not an image")
    with pytest.raises(DatasetError, match="3 of 23 "):
        opened(root)
    data = opened(root, on_damaged="skip")
    assert data.digest == opened(photos(tmp_path / "clean")).digest
    assert data.report
    report = json.loads(data.report.read_bytes())
    assert [one["path"] for one in report["damaged"]] == ["a/cut.png", "b/empty.jpg", "b/scan.tiff"]
    assert report["ignored"] == ["b/notes.txt"]
    assert "damaged files left out: 3" in capsys.readouterr().err


def test_a_dataset_of_damaged_files_alone_is_refused_whatever_is_skipped(tmp_path: Path) -> None:
    for name in ("a/0.png", "a/1.png", "b/0.png"):
        write(tmp_path / name, b"no image")
    with pytest.raises(DatasetError, match="3 of 3 "):
        opened(tmp_path, on_damaged="skip")


def test_images_that_are_all_the_same_colour_are_refused_without_further_notes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for edge, name in enumerate(("a/0.png", "a/1.png", "b/0.png", "b/1.png"), 8):
        file = io.BytesIO()
        Image.new("RGB", (edge, edge), (3, 200, 9)).save(file, "PNG")
        write(tmp_path / name, file.getvalue())
    write(tmp_path / "a" / "copy.png", file.getvalue())
    with pytest.raises(DatasetError, match="nothing to learn"):
        opened(tmp_path)
    assert "duplicates" not in capsys.readouterr().err


def test_copies_of_one_image_for_each_class_leave_none_to_test(tmp_path: Path) -> None:
    for number, name in enumerate("aabb"):
        write(tmp_path / name / f"{number}.png", picture(number // 2))
    with pytest.raises(DatasetError, match="no test images"):
        opened(tmp_path)


def test_names_that_are_not_utf_8_can_be_told(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    for name, content in ((b"\xe9.png", picture(7)), (b"\xff.png", b""), (b"\xe8.txt", b"")):
        write(root / "a" / os.fsdecode(name), content)
    data = opened(root, on_damaged="skip")
    assert data.report
    report = json.loads(data.report.read_bytes())
    assert report["files"] == 22
    assert report["damaged"][0]["path"] == r"a/\xff.png"
    assert report["ignored"] == [r"a/\xe8.txt"]
    root.rename(tmp_path / os.fsdecode(b"\xe9"))
    with pytest.raises(DatasetError, match="not UTF-8"):
        opened(tmp_path / os.fsdecode(b"\xe9"))


def test_hidden_folders_are_no_classes_and_are_listed(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    write(root / ".hidden" / "0.png", picture(0))
    data = opened(root)
    assert data.classes == ("a", "b")
    assert data.report
    assert json.loads(data.report.read_bytes())["ignored"] == [".hidden"]


@pytest.mark.parametrize(
    ("name", "head", "said"),
    [
        ("all.csv", "path;label", "';'.*','"),
        ("all.csv", "path\tlabel", r"'\\t'.*','.*\.tsv"),
        ("all.tsv", "path,label", r"','.*\.csv"),
        ("all.csv", "Path, label", "lower-case, without blanks"),
        ("all.csv", "path,label,label", "each once"),
        ("all.csv", "a/0.png,a", "'a/0.png', 'a'"),
        ("all.csv", "\ufeffpath,label".encode("utf-16").decode("latin-1"), "UTF-16"),
    ],
)
def test_a_table_s_head_is_told_what_it_lacks(
    tmp_path: Path, name: str, head: str, said: str
) -> None:
    (tmp_path / name).write_bytes(f"{head}\n".encode("latin-1"))
    with pytest.raises(DatasetError, match=said):
        opened(tmp_path / name)


def test_images_that_are_in_training_and_in_test_alike_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos(tmp_path / "d" / "train")
    photos(tmp_path / "d" / "test", each=3)
    opened(tmp_path / "d")
    assert "in training and in test or validation: 6" in capsys.readouterr().err
    opened(tmp_path / "d", on_duplicates="skip")
    assert "in training and in test" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        (pa.string(), ("x", "y")),
        (pa.large_string(), ("x", "y")),
        (pa.binary(), ("x", "y")),
        (pa.large_binary(), ("x", "y")),
        (pa.dictionary(pa.int32(), pa.string()), ("x", "y")),
        (pa.dictionary(pa.int32(), pa.binary()), ("x", "y")),
    ],
)
def test_text_of_every_kind_that_parquet_has_is_text(
    tmp_path: Path, kind: pa.DataType, read: tuple[str, ...]
) -> None:
    root = photos(tmp_path / "files", "ab", each=3)
    paths = sorted(str(p.relative_to(tmp_path)) for p in root.rglob("*.png"))
    labels = pa.array([read["/b/" in path] for path in paths])
    table = pa.table({"path": pa.array(paths).cast(kind), "label": labels.cast(kind)})
    parquet.write_table(table, tmp_path / "photos.parquet")
    assert opened(tmp_path / "photos.parquet").classes == read


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("path", [0]),
        ("path", [["a/0.png"]]),
        ("path", [b"\xff.png"]),
        ("label", [["x"]]),
        ("label", [{"name": "x"}]),
        ("split", [["train"]]),
    ],
)
def test_a_column_of_something_else_is_refused(
    tmp_path: Path, column: str, cells: list[Any]
) -> None:
    photos(tmp_path, "a", each=1)
    table = {"path": ["a/0.png"], "label": ["x"], "split": ["train"]} | {column: cells}
    parquet.write_table(pa.table(table), tmp_path / "photos.parquet")
    with pytest.raises(DatasetError, match=f"column '{column}'"):
        opened(tmp_path / "photos.parquet")


def test_a_table_s_label_that_is_not_a_number_is_none(tmp_path: Path) -> None:
    write(tmp_path / "0.png", picture(0))
    table = pa.table({"path": ["0.png"], "label": [float("nan")]})
    parquet.write_table(table, tmp_path / "photos.parquet")
    with pytest.raises(DatasetError, match=r"row 1: 0\.png .*label"):
        opened(tmp_path / "photos.parquet")


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    (root / "a" / "lost.png").symlink_to("/nowhere/x.png")
    with pytest.raises(DatasetError, match=r"lost\.png .*/nowhere/x\.png"):
        opened(root)


def test_duplicates_are_listed_and_left_out_on_request(tmp_path: Path) -> None:
    root = photos(tmp_path, "ab", each=5)
    write(root / "a" / "copy.png", (root / "a" / "0.png").read_bytes())
    write(root / "b" / "wrong.png", (root / "a" / "1.png").read_bytes())
    kept = opened(root)
    assert sum(kept.packed.count(part) for part in packing.PARTS) == 12
    assert kept.report
    report = json.loads(kept.report.read_bytes())
    assert report["duplicates"] == [["a/0.png", "a/copy.png"], ["a/1.png", "b/wrong.png"]]
    assert report["contradictions"] == [{"a/1.png": "a", "b/wrong.png": "b"}]
    left = opened(root, on_duplicates="skip")
    assert sum(left.packed.count(part) for part in packing.PARTS) == 9


def test_equal_files_are_never_in_training_and_test(tmp_path: Path) -> None:
    root = photos(tmp_path, "ab", each=8)
    for path in [*root.rglob("*.png")]:
        write(path.with_name(f"copy-{path.name}"), path.read_bytes())
    data = opened(root)
    train, test = (data.read(part)[0] for part in ("train", "test"))
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in test}


def test_nothing_is_decoded_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = photos(tmp_path / "photos")
    first = opened(root)
    monkeypatch.setattr(packing, "_write", None)
    monkeypatch.setattr(packing, "sha256_of", None)
    assert opened(root).digest == first.digest
    with pytest.raises(TypeError):  # another size is another packed dataset
        opened(root, image_size=8)


def test_a_packing_that_is_killed_leaves_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = photos(tmp_path / "photos")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Codec, "decode", killed)
        with pytest.raises(KeyboardInterrupt):
            opened(root)
    assert not [one for one in (cache / "folders").iterdir() if "partial" in one.name]
    assert len(opened(root).read("train")[1]) == 16


def test_what_does_not_fit_into_memory_is_read_from_disk_and_is_the_same(tmp_path: Path) -> None:
    root = photos(tmp_path, each=12)
    held, read = opened(root), opened(root, memory_gib=0)
    assert isinstance(read.train_images().pixels, packing.PackedImages)
    for (a, b), (c, d) in zip(held.train_images(), read.train_images(), strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    rows = torch.tensor([5, 6, 7, 0, 3])
    assert torch.equal(held.train_images().take(rows), read.train_images().take(rows))
    test = read.test_images().pixels
    assert np.array_equal(np.asarray(test), held.read("test")[0].transpose(0, 2, 3, 1))


def test_mean_and_deviation_are_the_training_images_own(tmp_path: Path) -> None:
    data = opened(photos(tmp_path))
    pixels = data.read("train")[0] / 255
    np.testing.assert_allclose(data.mean, pixels.mean((0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(data.std, pixels.std((0, 2, 3)), atol=1e-6)


def test_a_packed_dataset_is_a_folder_to_train_on(tmp_path: Path) -> None:
    first = opened(photos(tmp_path))
    again = opened(first.packed.folder, image_size=99)
    assert (again.digest, again.image_size) == (first.digest, SIZE)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        ({}, "photos"),
        ({"notes.txt": b""}, "photos"),
        ({"loose.png": b""}, r"loose\.png"),
        ({"train/loose.png": b""}, r"train/loose\.png"),
        ({"train/a/0.png": b"", "test/a/0.png": b"", "more/0.png": b""}, "'more'"),
        ({"a/0.png": b""}, "classes is .*'a',"),
        ({"a/0.png": b"", "b\n/0.png": b""}, r"classes\[1\] is 'b\\n'"),
        ({"a/0.png": b"", os.fsdecode(b"\xe9/0.png"): b""}, r"found U\+DCE9"),
        ({"a/0.png": b"", "b/notes.txt": b""}, r"photos/b\b"),
        ({"train/a/0.png": b"a", "test/b/0.png": b"b"}, "class 'b'"),
        ({"all.xlsx": b""}, r"\.csv, \.tsv, \.parquet"),
    ],
)
def test_what_is_no_dataset_is_told_how_one_looks(
    tmp_path: Path, make: dict[str, bytes], said: str
) -> None:
    for name, data in make.items():
        write(tmp_path / "photos" / name, data)
    root = tmp_path / "photos"
    with pytest.raises(DatasetError, match=said):
        opened(root / "all.xlsx" if "all.xlsx" in make else root)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"image_size": 0}, r"data\.image_size=0: "),
        ({"resize": "fit"}, r"data\.resize=fit: .*crop or stretch or pad"),
        ({"on_damaged": "ask"}, r"data\.on_damaged=ask: .*fail or skip"),
        ({"test_share": 1.5}, r"data\.test_share=1\.5: .* 0 and 1"),
    ],
)
def test_a_wrong_value_is_refused(tmp_path: Path, value: dict[str, Any], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        opened(photos(tmp_path, each=1), **value)


def epoch(data: ImageFolder, number: int) -> list[torch.Tensor]:
    """The batches of an epoch."""
    batches = AugmentedImages(
        data.train_images(),
        batch_size=4,
        augmentation=data.augmentation,
        classes=2,
        sizes=data.sizes,
        seed=0,
        current_epoch=lambda: number,
    )
    return [images for images, _ in batches]


def test_batches_from_disk_are_a_function_of_seed_and_epoch(tmp_path: Path) -> None:
    data = opened(photos(tmp_path, each=12), memory_gib=0)
    first, again, other = epoch(data, 0), epoch(data, 0), epoch(data, 1)
    assert [tuple(images.shape) for images in first] == [(4, 3, *SIZE)] * 4
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_an_image_from_disk_is_mirrored_by_what_it_is_and_not_by_its_place_in_a_batch(
    tmp_path: Path,
) -> None:
    root = photos(tmp_path, each=12)
    held, read = (opened(root, max_shift=0, memory_gib=gib) for gib in (1.0, 0))
    for data in (held, read):
        data.augmentation = Augmentation(mirror=True, shift=0)
    for number in (0, 1):
        pairs = zip(epoch(held, number), epoch(read, number), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
