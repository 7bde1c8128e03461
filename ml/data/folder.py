"""A dataset of image files that needs only a configuration: one subfolder per class, or a table of
paths and labels.

    bazel run //ml:train data=folder data.folder=photos/

The files are decoded once, by the code that decodes uploads in the service (common/images.py), and
kept packed in this machine's cache: see `ml.data.packing`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.files import user_path, write_whole
from common.images import DECODED, MAX_PIXELS, NOT_DECODED
from common.model.artifact import Resize
from ml.data.checks import NOTHING_TO_LEARN, check_classes
from ml.data.cifar10 import DatasetError
from ml.data.cifar10_files import cache_folder
from ml.data.datamodule import ImageData
from ml.data.packing import (
    FACTS,
    Packed,
    Sample,
    fingerprints,
    pack,
    read_packed,
    shown_path,
)

TABLES = (".csv", ".tsv", ".parquet")
OnDamaged = Literal["fail", "skip"]
OnDuplicates = Literal["keep", "skip"]
_PART_FOLDERS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
_TABLE_PARTS = {**_PART_FOLDERS, "": None}
_MOST_SIZES = 20_000  # files whose headers are read for their sizes
_LISTED = 5  # problems that a message lists at most


@dataclass(frozen=True)
class File:
    """An image file as its folder or table lists it; part is None if neither specifies one."""

    path: Path
    label: str
    part: str | None
    sha256: str = ""


@dataclass(frozen=True)
class Listing:
    """The files of a dataset before any of them is decoded.

    Attributes:
        classes: in the order of the labels: numbers by value, other names alphabetically.
        ignored: names of files that are not images, or lie outside every class.
    """

    root: Path
    classes: tuple[str, ...]
    files: tuple[File, ...]
    ignored: tuple[str, ...]

    @property
    def duplicates(self) -> list[list[File]]:
        """Groups of byte-identical files."""
        same = defaultdict(list)
        for file in self.files:
            same[file.sha256].append(file)
        return [group for group in same.values() if len(group) > 1]

    def named(self, file: File) -> str:
        """A file's path as shown in the report."""
        return shown_path(file.path, self.root)


class ImageFolder(ImageData):
    """Image files of any size, of every type that the service accepts: a dataset without code.

    Args:
        folder: with one subfolder per class, or with ``train/`` and ``test/`` that contain them
            (and optionally ``val/``, for validation during training); or a CSV, TSV or Parquet file
            with the columns ``path``, ``label`` and optionally ``split``; or a packed dataset.
        image_size: edge in pixels, or [height, width], to which every image is resized.
        resize: ``crop``, ``stretch`` or ``pad``, for images of another aspect ratio; the model
            stores it, so that the service does the same.
        test_share: share of each class for the test set, if the files do not specify one; selected
            by content and `split_seed`, so that neither file names nor the run's seed move an
            image.
        on_damaged: ``fail`` lists files that cannot be decoded and stops; ``skip`` leaves them out.
        on_duplicates: ``skip`` keeps one of several byte-identical files, a test image if there is
            one, and none if their classes differ.
        memory_gib: a larger packed part is read batch by batch instead of being held in memory.
            While an epoch is augmented, training takes about three times the memory of the pixels.
        max_pixels: files with more count as damaged, since the service rejects them.
        base: arguments of `ImageData`.
    """

    def __init__(
        self,
        *,
        folder: str | Path | None = None,
        image_size: int | Sequence[int] = 64,
        resize: Resize = "crop",
        test_share: float = 0.2,
        split_seed: int = 0,
        on_damaged: OnDamaged = "fail",
        on_duplicates: OnDuplicates = "keep",
        memory_gib: float = 2.0,
        max_pixels: int = MAX_PIXELS,
        **base: Any,
    ) -> None:
        self.image_size = _size(image_size)
        self.resize = _one_of("resize", resize, get_args(Resize))
        self.on_damaged = _one_of("on_damaged", on_damaged, get_args(OnDamaged))
        self.on_duplicates = _one_of("on_duplicates", on_duplicates, get_args(OnDuplicates))
        self.test_share = _share("test_share", test_share)
        self.split_seed, self.max_pixels = split_seed, max_pixels
        self.report: Path | None = None
        self.files: list[Path] = []
        self.note = ""
        self.memory_bytes = int(memory_gib * 2**30)
        if folder is None:
            self.usual_folder()
        root = user_path(folder or "").absolute()
        self.packed = self._packed(root)
        if not any(self.packed.facts["std"]):
            raise DatasetError(f"{root}: {NOTHING_TO_LEARN}")
        self.classes = tuple(self.packed.facts["classes"])
        self.mean = tuple(self.packed.facts["mean"])
        self.std = tuple(max(value, 1e-3) for value in self.packed.facts["std"])
        super().__init__(folder=root, **base)
        if self.note:  # not before a refusal
            print(self.note, file=sys.stderr)

    @property
    def digest(self) -> str:
        """SHA-256 over the class names and the content, class and part of every image that is used;
        independent of file names and of image_size."""
        return str(self.packed.facts["digest"])

    def read(self, part: str) -> tuple[Any, NDArray[np.int64]]:
        """Pixels (N, 3, H, W) and labels (N,); pixels that exceed `memory_gib` stay on disk."""
        images = self.packed.images(part)
        if images.nbytes > self.memory_bytes:
            return images, self.packed.labels(part)
        return images[:].transpose(0, 3, 1, 2), self.packed.labels(part)

    def divide(self, labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The validation images are those that the files specify, if they do."""
        if named := self.packed.count("validation"):
            rows = np.arange(len(labels))
            return rows[:-named], rows[-named:]
        return super().divide(labels)

    def file_sizes(self) -> NDArray[np.int64]:
        """(N, 2), width and height of the files from their headers; a sample if there are many."""
        sizes = []
        for file in self.files[:: 1 + len(self.files) // _MOST_SIZES]:
            try:
                with Image.open(file) as image:
                    sizes.append(image.size)
            except (OSError, ValueError):  # damaged, as the report says
                continue
        return np.array(sizes, np.int64).reshape(-1, 2)

    def _packed(self, root: Path) -> Packed:
        if (root / FACTS).is_file():
            return self._packed_before(root)
        cache = cache_folder("folders")
        try:
            listing = list_files(root, cache)
            samples = divided(listing, self.test_share, self.split_seed, self.on_duplicates)
            packed = pack(
                samples,
                listing.classes,
                size=self.image_size,
                resize=self.resize,
                max_pixels=self.max_pixels,
                cache=cache,
                root=listing.root,
            )
        except OSError as exc:
            raise DatasetError(f"{root} cannot be packed in {cache}: {exc}") from exc
        if not packed.count("test") and len(packed.damaged) < len(listing.files):
            raise DatasetError(
                f"{root} gives no test images: no class has two images that differ; add some, or "
                "name the test images by a folder test/ or the column split"
            )
        self.report = write_report(listing, packed)
        self.files = [file.path for file in listing.files]
        self._check_damaged(listing, packed)
        self.note = self._noted(listing, packed)
        return packed

    def _packed_before(self, root: Path) -> Packed:
        try:
            packed = read_packed(root)
        except (OSError, ValueError) as exc:
            raise DatasetError(f"{root} holds no packed dataset that can be read: {exc}") from exc
        self.image_size = _size(packed.facts["image_size"])
        self.resize = packed.facts["resize"]
        return packed

    def _check_damaged(self, listing: Listing, packed: Packed) -> None:
        """Raises DatasetError for damaged files, unless they may be left out."""
        damaged = packed.damaged
        if damaged and (self.on_damaged == "fail" or len(damaged) == len(listing.files)):
            first = [f"  {one['path']}: {one['reason']}" for one in damaged[:_LISTED]]
            if len(damaged) > _LISTED:
                first.append(f"  … and {len(damaged) - _LISTED:,} more")
            raise DatasetError(
                f"{listing.root} has {len(damaged):,} of {len(listing.files):,} image files that "
                "cannot be decoded:\n" + "\n".join(first) + "\nRepair or delete them, or leave "
                f"them out: data.on_damaged=skip. All are in {self.report}"
            )

    def _noted(self, listing: Listing, packed: Packed) -> str:
        """A line about damaged files and duplicates; empty if there are none."""
        damaged, copies = packed.damaged, sum(len(group) - 1 for group in listing.duplicates)
        notes = []
        if damaged:
            notes.append(f"damaged files left out: {len(damaged):,}")
        if copies:
            verdict = "left out" if self.on_duplicates == "skip" else "kept"
            notes.append(f"duplicates {verdict} (data.on_duplicates): {copies:,}")
            seen = sum(len({file.part for file in group}) > 1 for group in listing.duplicates)
            if seen and self.on_duplicates == "keep":
                notes.append(f"of these in training and in test or validation: {seen:,}")
            classes = sum(len({file.label for file in group}) > 1 for group in listing.duplicates)
            if classes:
                notes.append(f"of these in several classes: {classes:,}")
        if listing.ignored:
            notes.append(f"files and folders ignored: {len(listing.ignored):,}")
        return f"{listing.root}: {', '.join(notes)}: {self.report}" if notes else ""


def list_files(root: Path, cache: Path) -> Listing:
    """The image files of a folder or a table with their classes and hashes.

    Raises:
        DatasetError: the folder or table does not exist or is not a dataset; the message says what
            one looks like.
        OSError: a file cannot be read.
    """
    if shown_path(root, root.parent) != root.name:
        raise DatasetError(f"data.folder={root}: the path is not UTF-8, rename it")
    if root.is_file():
        base, files, ignored = root.parent, read_table(root), list[Path]()
    elif root.is_dir():
        base, (files, ignored) = root, _walk(root)
    else:
        raise DatasetError(f"data.folder={root}: there is no such folder or table")
    if not files:
        outside = [path for path in ignored if path.suffix.lower() in DECODED]
        found = "no image files"
        if outside:
            found = f"image files, such as {shown_path(outside[0], base)}, but no class folders"
        raise DatasetError(
            f"{root} holds {found}: expected a subfolder for each class, with files ending "
            f"in {', '.join(DECODED)}; or a CSV or Parquet file of paths and labels"
        )
    classes = tuple(sorted({file.label for file in files}, key=_by_number))
    check_classes(str(root), classes)
    known_in = cache / "files" / f"{hashlib.sha256(str(root).encode()).hexdigest()[:24]}.json"
    digests = fingerprints([file.path for file in files], known_in)
    files = [replace(file, sha256=digest) for file, digest in zip(files, digests, strict=True)]
    parts = {file.part for file in files}
    if "test" not in parts and "validation" in parts:  # a dataset whose test set is named val
        files = [replace(f, part="test") if f.part == "validation" else f for f in files]
    if unknown := {f.label for f in files} - {f.label for f in files if f.part in (None, "train")}:
        raise DatasetError(
            f"{root}: class {sorted(unknown)[0]!r} has test images and none to learn from: add "
            "some, or leave the class out"
        )
    return Listing(
        root=base,
        classes=classes,
        files=tuple(files),
        ignored=tuple(sorted(shown_path(path, base) for path in ignored)),
    )


def _walk(root: Path) -> tuple[list[File], list[Path]]:
    """Image files below a folder, and other files."""
    folders = _visible(root, Path.is_dir)
    by_part = {one.name.lower(): one for one in folders}
    others = sorted(by_part.keys() - _PART_FOLDERS.keys())
    if "train" in by_part and others and len(by_part) > 1 + len(others):
        raise DatasetError(
            f"{root} has train/ and other parts of a dataset, and beside them {others[0]!r}: move "
            "it elsewhere, or rename the folders if they are classes"
        )
    classes: list[tuple[str | None, Path]]
    if "train" in by_part and by_part.keys() <= _PART_FOLDERS.keys():
        classes = [
            (_PART_FOLDERS[part.name.lower()], one)
            for part in folders
            for one in _visible(part, Path.is_dir)
        ]
        outside = [f for folder in (root, *folders) for f in _visible(folder, Path.is_file)]
        outside += [one for folder in (root, *folders) for one in _hidden_folders(folder)]
    else:
        classes = [(None, one) for one in folders]
        outside = [*_visible(root, Path.is_file), *_hidden_folders(root)]
    files: list[File] = []
    for part, folder in classes:
        found = [path for path in sorted(folder.rglob("*")) if _is_shown(path, folder)]
        images = [path for path in found if path.suffix.lower() in DECODED + NOT_DECODED]
        if not images and part in (None, "train"):
            raise DatasetError(f"class folder {folder} holds no image files: fill or delete it")
        files += [File(path, folder.name, part) for path in images]
        outside += [path for path in found if path.suffix.lower() not in DECODED + NOT_DECODED]
    return files, outside


def _visible(folder: Path, kind: Any) -> list[Path]:
    return sorted(
        one
        for one in folder.iterdir()
        if kind(one) and not one.name.startswith(".") and one.name != "__MACOSX"
    )


def _hidden_folders(root: Path) -> list[Path]:
    return [one for one in root.iterdir() if one.name.startswith(".") and one.is_dir()]


def _is_shown(path: Path, folder: Path) -> bool:
    if any(part.startswith(".") for part in path.relative_to(folder).parts):
        return False
    if path.is_symlink() and not path.exists():
        raise DatasetError(
            f"{path} links to {path.readlink()}, which is not there: mend or delete it"
        )
    return path.is_file()


def read_table(path: Path) -> list[File]:
    """The rows of a CSV, TSV or Parquet file; paths are relative to its folder.

    Raises:
        DatasetError: it cannot be read, lacks a column, or names a missing file.
    """
    rows = _rows(path)
    files = []
    for number, row in enumerate(rows, 1):
        split = str(row.get("split") or "").strip().lower()
        named = row["label"] is not None and row["label"] == row["label"]  # NaN is not a label
        label = str(row["label"]).strip() if named else ""
        file = path.parent / (row["path"] or "")
        if split not in _TABLE_PARTS:
            raise DatasetError(
                f"{path}, row {number}: split is {split!r}, expected train, validation or test"
            )
        if not label:
            raise DatasetError(f"{path}, row {number}: {row['path']} has no label")
        if not (row["path"] or "").strip():
            raise DatasetError(f"{path}, row {number}: there is no path")
        if not file.is_file():
            cure = _cure_of_path(path.parent, row["path"])
            raise DatasetError(f"{path}, row {number}: there is no file {file}{cure}")
        files.append(File(file, label, _TABLE_PARTS[split]))
    if len({file.part is None for file in files}) > 1:
        raise DatasetError(f"{path}: some rows have a split and others none; fill all or none")
    return files


def _cure_of_path(folder: Path, named: str) -> str:
    """The advice for a path in a table whose file exists under another spelling."""
    plain = named.strip()
    for spelling, cure in (
        (plain, "leave out the blanks around it"),
        (plain.replace("\\", "/"), "write / instead of \\, without blanks around it"),
    ):
        if (folder / spelling).is_file():
            return f": {cure}"
    return ""


def _rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa  # lazy: takes a third of a second, and image folders do not need it
    from pyarrow import csv, parquet

    try:
        if path.suffix.lower() == ".parquet":
            table = parquet.read_table(path)
        elif path.suffix.lower() in TABLES:
            tabs = csv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            texts = {name: pa.string() for name in ("path", "label", "split")}
            options = csv.ConvertOptions(column_types=texts)
            table = csv.read_csv(path, parse_options=tabs, convert_options=options)
        else:
            raise DatasetError(f"data.folder={path}: expected a folder, or {', '.join(TABLES)}")
        names = table.column_names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as exc:
        is_utf16 = path.read_bytes()[:2] in (BOM_UTF16_LE, BOM_UTF16_BE)
        reason = "it is UTF-16, expected UTF-8" if is_utf16 else exc
        raise DatasetError(f"{path} cannot be read as a table: {reason}") from exc
    wanted = [name for name in ("path", "label", "split") if name in names]
    if wanted[:2] != ["path", "label"] or any(names.count(name) > 1 for name in wanted):
        raise DatasetError(
            f"{path} has the columns {', '.join(map(repr, names))}, expected 'path', 'label' and "
            f"perhaps 'split', each once{_cure_of_columns(path, names)}"
        )
    rows: list[dict[str, Any]] = _cells(path, table.select(wanted)).to_pylist()
    return rows


def _cells(path: Path, table: Any) -> Any:
    """The table with text instead of bytes, as which some writers of Parquet store text.

    Raises:
        DatasetError: paths are no text, or a column holds lists or the like.
    """
    import pyarrow as pa
    from pyarrow import types

    for place, name in enumerate(table.column_names):
        column = table.column(name)
        kind = getattr(column.type, "value_type", column.type)  # of a dictionary
        if types.is_binary(kind) or types.is_large_binary(kind):
            try:
                column = column.cast(pa.string())
            except pa.ArrowInvalid as exc:
                raise DatasetError(f"{path}: column {name!r} is not UTF-8 text") from exc
            table = table.set_column(place, name, column)
            continue
        is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind)
        if types.is_nested(column.type) or (name == "path" and not is_text):
            expected = "text" if name == "path" else "text or numbers"
            raise DatasetError(f"{path}: column {name!r} holds {column.type}, expected {expected}")
    return table


def _cure_of_columns(path: Path, names: Sequence[str]) -> str:
    if not {"path", "label"} <= {*names} and {"path", "label"} <= {
        name.strip().lower() for name in names
    }:
        return ": lower-case, without blanks"
    for separator, suffix in ((";", ".csv"), ("\t", ".tsv"), (",", ".csv"), ("|", ".csv")):
        if len(names) == 1 and separator in names[0]:
            wanted = "a tab" if path.suffix.lower() == ".tsv" else "','"
            other = f", or call it {suffix}" if separator in "\t," else ""
            return f": the columns are separated by {separator!r}, expected {wanted}{other}"
    return ""


def divided(
    listing: Listing, test_share: float, seed: int, on_duplicates: OnDuplicates
) -> list[Sample]:
    """Every file with its part and class index; byte-identical files are in the same part."""
    files: Iterable[File] = listing.files
    if on_duplicates == "skip":
        files = _without_copies(files)
    if {file.part for file in listing.files} <= {None, "train"}:
        files = _with_test(files, test_share, seed)
    numbers = {name: number for number, name in enumerate(listing.classes)}
    return [Sample(f.path, numbers[f.label], f.part or "train", f.sha256) for f in files]


def _without_copies(files: Iterable[File]) -> list[File]:
    groups = defaultdict(list)
    for file in files:
        groups[file.sha256].append(file)
    return [
        min(group, key=lambda file: (file.part != "test", file.part != "validation", file.path))
        for group in groups.values()
        if len({file.label for file in group}) == 1
    ]


def _with_test(files: Iterable[File], share: float, seed: int) -> list[File]:
    by_class = defaultdict(set)
    files = list(files)
    for file in files:
        by_class[file.label].add(file.sha256)
    test = set[str]()
    for contents in by_class.values():
        ranked = sorted(contents, key=lambda one: hashlib.sha256(f"{seed} {one}".encode()).digest())
        test.update(ranked[: _part_of(len(ranked), share)])
    return [replace(f, part="test" if f.sha256 in test else "train") for f in files]


def _part_of(count: int, share: float) -> int:
    """A share of a count: at least one, unless that leaves none."""
    return min(max(1, round(share * count)), count - 1)


def write_report(listing: Listing, packed: Packed) -> Path:
    """Counts, damaged files, duplicates and ignored files as JSON beside the packed files."""
    groups = listing.duplicates
    found = {
        "folder": str(listing.root),
        "files": len(listing.files),
        "classes": dict(sorted(Counter(file.label for file in listing.files).items())),
        "counts": packed.facts["counts"],
        "digest": packed.facts["digest"],
        "damaged": packed.damaged,
        "duplicates": [sorted(listing.named(file) for file in group) for group in groups],
        "contradictions": [
            {listing.named(file): file.label for file in group}
            for group in groups
            if len({file.label for file in group}) > 1
        ],
        "ignored": list(listing.ignored),
    }
    path = packed.folder.with_name(f"{packed.folder.name}.report.json")
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_whole(path, text)
    return path


def _by_number(name: str) -> tuple[bool, int, str]:
    number = name.isascii() and name.isdecimal()
    return not number, int(name) if number else 0, name


def _size(value: int | Sequence[int]) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else tuple(value)
    if min(height, width) < 1:
        raise DatasetError(
            f"data.image_size={value}: expected an edge in pixels or [height, width]"
        )
    return int(height), int(width)


def _share(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise DatasetError(f"data.{name}={value}: expected a share between 0 and 1")
    return value


def _one_of(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    if value not in choices:
        raise DatasetError(f"data.{name}={value}: expected {' or '.join(choices)}")
    return value
