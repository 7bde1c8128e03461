"""Labelled captures as a dataset: images that the service received and people labelled, added to
the training images of the model's original dataset.

    bazel run //ml:train data=captured

A version is a packed dataset (see `ml.data.packing`) that is named after a digest of its inputs:
``train.bin`` has the captures to train on, ``test.bin`` the live test set, a share of the requests
that no version trains on. Validation and test images are those of the base dataset.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from common.captures import Capture, Captures, Verdict, hash_uniform, usual_location, verdicts
from common.files import user_path, write_whole
from common.images import UnreadableImage, read_pixels
from common.objects import StoreError
from common.stores import open_store
from common.terminal import Progress
from ml.artifact.evaluation import Labelled
from ml.data.checks import checked_part
from ml.data.cifar10 import DatasetError, stratified_split
from ml.data.cifar10_files import cache_folder
from ml.data.datamodule import ImageData
from ml.data.duplicates import find_duplicates
from ml.data.packing import FACTS, Packed, PackedImages, digest_of, locked, published, read_packed

NearDuplicates = Literal["skip", "keep"]
_FORMAT = 1  # to be incremented when the selection of captures changes
_LABEL = np.dtype("<i8")


@dataclass(frozen=True)
class LiveTest:
    """Labelled captures that no version trains on.

    Attributes:
        images: (N, H, W, 3) uint8.
        labels: (N,).
        weights: (N,), number of answers in the traffic that each image represents: 1/(probability
            of having been captured × probability of having been shown to a labeller). Where the
            latter is unknown, as for imported labels, it counts as 1.
        drawn: (N,), whether the probability of having been shown to a labeller is known.
        keys: request id and index of each image.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]
    drawn: NDArray[np.bool_]
    keys: tuple[tuple[str, int], ...]


class CapturedData(ImageData):
    """A dataset with labelled captures among its training images.

    Args:
        base: the model's original dataset: classes, sizes, validation and test set.
        captures: URL of the store; None for its default location.
        since, until: time span of the captures, and for `until` of the labels too; ISO 8601.
        live_share: share of the requests, selected by their ids, that forms the live test set.
        near_duplicates: ``skip`` leaves out captures that are near-duplicates of test images.
        alone: whether the base's training images are left out.
        repeat: how often each captured image appears in an epoch.
        train_size: training images of the base, equally many of each class; None for all.
        folder: of an existing version.
        sizes: of the training images; None for the base's.
        own: arguments of `ImageData`.
    """

    def __init__(
        self,
        *,
        base: ImageData,
        captures: str | None = None,
        since: str | None = None,
        until: str | None = None,
        live_share: float = 0.3,
        near_duplicates: NearDuplicates = "skip",
        alone: bool = False,
        repeat: int = 1,
        train_size: float | None = None,
        folder: str | Path | None = None,
        **own: Any,
    ) -> None:
        if near_duplicates not in get_args(NearDuplicates):
            raise DatasetError(f"data.near_duplicates={near_duplicates}: expected skip or keep")
        self.base, self.alone, self.repeat = base, alone, repeat
        self.base_train_size = train_size
        self.classes, self.image_size = base.classes, base.image_size
        self.mean, self.std = base.mean, base.std
        self.resize = getattr(base, "resize", "crop")
        plan = Plan(
            captures or usual_location(),
            _seconds("since", since, 0.0),
            _seconds("until", until, datetime.now(UTC).timestamp()),
            live_share,
            near_duplicates == "skip",
        )
        self.packed = self._opened(user_path(folder)) if folder else make_version(base, plan)
        super().__init__(folder=self.packed.folder, **own)
        if own.get("sizes") is None:
            self.sizes = base.sizes

    @property
    def digest(self) -> str:
        """SHA-256 over the base's digest and the content, class and part of every capture."""
        return digest_of([self.base.digest, self.packed.facts["digest"], self.alone])

    def read(self, part: str) -> tuple[NDArray[np.uint8] | PackedImages, NDArray[np.int64]]:
        """The base's test images; or its training images followed by the captured ones."""
        pixels, labels = checked_part(self.base, part)
        if part == "test":
            return pixels, labels
        own = self.packed.images("train")[:].transpose(0, 3, 1, 2)
        if isinstance(pixels, PackedImages):
            pixels = pixels[:].transpose(0, 3, 1, 2)
        return np.concatenate([pixels, own]), np.concatenate([labels, self.packed.labels("train")])

    def divide(self, labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Validation images are the base's; all captures are for training."""
        of_base = len(labels) - self.packed.count("train")
        train, validation = self.base.divide(labels[:of_base])
        if self.base.train_size is not None:  # images that the base left out stay unseen
            _, chosen = stratified_split(labels[train], self.base.train_size, self.base.seed)
            train = train[chosen]
        if self.base_train_size is not None and self.base_train_size < len(train):
            _, chosen = stratified_split(labels[train], self.base_train_size, self.seed)
            train = train[chosen]
        own = np.tile(np.arange(of_base, len(labels)), self.repeat)
        return (own if self.alone else np.concatenate([train, own])), validation

    def live_test(self) -> LiveTest:
        """The live test set, on which the next model is evaluated in addition to the test
        images."""
        rows = self.packed.facts["rows"]["test"]
        chances = [row["probability"] * (row["propensity"] or 1.0) for row in rows]
        return LiveTest(
            self.packed.images("test")[:],
            self.packed.labels("test"),
            1 / np.array(chances, np.float64).reshape(-1),
            np.array([row["propensity"] is not None for row in rows], bool),
            tuple((row["request_id"], row["index"]) for row in rows),
        )

    def _opened(self, folder: Path) -> Packed:
        try:
            packed = read_packed(folder)
            rows, size = packed.facts["rows"], tuple(packed.facts["image_size"])
        except (OSError, ValueError, KeyError) as exc:
            raise DatasetError(f"data.folder={folder}: no version of captures: {exc!r}") from exc
        if tuple(packed.facts["classes"]) != tuple(self.classes) or size != tuple(self.image_size):
            raise DatasetError(
                f"data.folder={folder} has {len(packed.facts['classes'])} classes at {size}, and "
                f"data.base {len(self.classes)} at {tuple(self.image_size)}: expected the same"
            )
        assert set(rows) == {"train", "test"}
        return packed


@dataclass(frozen=True)
class Plan:
    """Selects the labelled captures of a version; times are seconds since 1970."""

    captures: str
    since: float
    until: float
    live_share: float
    skips_near: bool


def make_version(base: ImageData, plan: Plan) -> Packed:
    """The version of a plan, created in this machine's cache if it is not there yet; a line on
    stderr then says what was left out.

    Raises:
        DatasetError: the store cannot be read, or nothing in it is labelled.
    """
    folder = cache_folder("captured")
    about = [_FORMAT, vars(plan), base.digest, [*base.classes], [*base.image_size]]
    key = digest_of(about)[:24]
    with locked(folder, key):
        if not (folder / key / FACTS).is_file():
            try:
                made, facts = _collect(base, plan)
            except StoreError as exc:
                raise DatasetError(f"data.captures={plan.captures}: {exc}") from exc
            _write(folder, key, made, facts)
            _tell(plan, facts)
    return read_packed(folder / key)


def is_live_test(request_id: str, share: float) -> bool:
    """Whether a request belongs to the live test set, which is the same in every version: a larger
    share includes a smaller one."""
    return hash_uniform(f"live test {request_id}") < share


def forget_packed(request_id: str) -> list[Path]:
    """Deletes the versions in this machine's cache that contain an image of a request; returns
    their folders."""
    found = []
    for facts in sorted(cache_folder("captured").glob(f"*/{FACTS}")):
        rows = json.loads(facts.read_text(encoding="utf-8"))["rows"]
        if any(row["request_id"] == request_id for part in rows.values() for row in part):
            shutil.rmtree(facts.parent)
            found.append(facts.parent)
    return found


@dataclass(frozen=True)
class _Row:
    capture: Capture
    verdict: Verdict
    pixels: NDArray[np.uint8]
    part: str  # train or test
    sha256: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "request_id": self.capture.request_id,
            "index": self.capture.index,
            "probability": self.capture.probability,
            "propensity": self.verdict.propensity,
        }


def _collect(base: ImageData, plan: Plan) -> tuple[dict[str, list[_Row]], dict[str, Any]]:
    """The rows of each part, sorted by the hash of their content, and the facts about them."""
    captures = Captures(open_store(plan.captures))
    left_out = Counter[str]()
    with Progress("reading labelled captures"):
        said = verdicts(label for label in captures.labels() if label.time < plan.until)
        rows = list(_labelled(captures, said, base, plan, left_out))
    if not rows:
        why = ", ".join(f"{count:,} {what}" for what, count in left_out.items())
        raise DatasetError(
            f"data.captures={plan.captures}: no labelled captures that could be used"
            f"{f' ({why})' if why else ''}: label some with bazel run //ml:label"
        )
    rows.sort(key=lambda row: (row.sha256, row.capture.key))
    rows = _without_copies(rows, base, plan, left_out)
    parts = {part: [row for row in rows if row.part == part] for part in ("train", "test")}
    names = [*base.classes]
    ordered = [row for one in parts.values() for row in one]
    lines = [f"{row.part} {row.verdict.label} {row.sha256}" for row in ordered]
    counts = {part: Counter(row.verdict.label for row in one) for part, one in parts.items()}
    facts = {
        "format": 1,  # of `ml.data.packing`
        "digest": digest_of([names, lines]),
        "classes": names,
        "counts": {part: [counts[part][name] for name in names] for part in parts},
        "image_size": [*base.image_size],
        "resize": getattr(base, "resize", "crop"),
        "mean": [*base.mean],
        "std": [*base.std],
        "damaged": [],
        "base": base.digest,
        "plan": vars(plan),
        "left_out": dict(sorted(left_out.items())),
        "labellers": sorted({name for row in rows for name in row.verdict.said}),
        "rows": {part: [row.as_dict() for row in one] for part, one in parts.items()},
    }
    return parts, facts


def _labelled(
    captures: Captures,
    said: dict[tuple[str, int], Verdict],
    base: ImageData,
    plan: Plan,
    left_out: Counter[str],
) -> Iterator[_Row]:
    shape, classes, seen = (*base.image_size, 3), set(base.classes), set[tuple[str, int]]()
    for row in captures.rows(plan.since, plan.until):
        verdict = said.get(row.key)
        if verdict is None or row.key in seen:
            continue
        seen.add(row.key)
        if verdict.label is None:
            left_out["disputed"] += 1
        elif verdict.label not in classes:
            left_out["of other classes"] += 1
        elif (pixels := _pixels(row)) is None:
            left_out["damaged"] += 1
        elif pixels.shape != shape:
            left_out["of another size"] += 1
        else:
            part = "test" if is_live_test(row.request_id, plan.live_share) else "train"
            digest = hashlib.sha256(pixels.tobytes()).hexdigest()
            yield _Row(row, verdict, pixels, part, digest)


def _pixels(row: Capture) -> NDArray[np.uint8] | None:
    try:
        return read_pixels(row.image)
    except UnreadableImage:
        return None


def _without_copies(
    rows: Sequence[_Row], base: ImageData, plan: Plan, left_out: Counter[str]
) -> list[_Row]:
    """Drops rows that duplicate an image of the base, of the live test set or of an earlier row."""
    with Progress("comparing captures with the dataset", 3) as progress:
        ours = {row.sha256 for row in rows}
        known = {digest for digest in _digests(checked_part(base, "train")[0]) if digest in ours}
        kept = [row for row in rows if row.sha256 not in known]
        left_out["copies of training images"] += len(rows) - len(kept)
        progress.advance()
        test_pixels, test_labels = checked_part(base, "test")
        known = {digest for digest in _digests(test_pixels) if digest in ours}
        near = _near(Labelled(_last(test_pixels), test_labels), kept) if plan.skips_near else set()
        fresh = [
            row for place, row in enumerate(kept) if row.sha256 not in known and place not in near
        ]
        left_out["near-duplicates of test images"] += len(kept) - len(fresh)
        progress.advance()
        live = [row for row in fresh if row.part == "test"]
        train = [row for row in fresh if row.part == "train"]
        contents = {row.sha256 for row in live}
        near = set()
        if plan.skips_near and live and train:
            near = _near(Labelled(np.stack([row.pixels for row in live]), _zeros(live)), train)
        apart = [r for n, r in enumerate(train) if r.sha256 not in contents and n not in near]
        left_out["shown by the live test too"] += len(train) - len(apart)
        once: dict[tuple[str, str], _Row] = {}
        for row in [*live, *apart]:
            once.setdefault((row.part, row.sha256), row)
        left_out["copies of another capture"] += len(live) + len(apart) - len(once)
    return list(once.values())


def _near(others: Labelled, rows: Sequence[_Row]) -> set[int]:
    """Indices of the rows that are near-duplicates of one of the others."""
    if not rows:
        return set()
    ours = Labelled(np.stack([row.pixels for row in rows]), _zeros(rows))
    return {pair.test for pair in find_duplicates(others, ours).near}


def _zeros(rows: Sequence[_Row]) -> NDArray[np.int64]:
    return np.zeros(len(rows), np.int64)


def _last(pixels: NDArray[np.uint8] | PackedImages) -> NDArray[np.uint8]:
    """The pixels as (N, H, W, 3), in memory."""
    if isinstance(pixels, PackedImages):
        return pixels[:]
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


def _digests(pixels: NDArray[np.uint8] | PackedImages) -> Iterator[str]:
    for start in range(0, len(pixels), 1000):
        part = pixels[start : start + 1000]
        part = part if isinstance(pixels, PackedImages) else part.transpose(0, 2, 3, 1)
        for image in np.ascontiguousarray(part):
            yield hashlib.sha256(image.tobytes()).hexdigest()


def _write(cache: Path, key: str, parts: dict[str, list[_Row]], facts: dict[str, Any]) -> None:
    with published(cache, key) as staged:
        places = {name: place for place, name in enumerate(facts["classes"])}
        for part, rows in parts.items():
            labels = np.array([places[str(row.verdict.label)] for row in rows], _LABEL)
            data = b"".join([*(row.pixels.tobytes() for row in rows), labels.tobytes()])
            write_whole(staged / f"{part}.bin", data)
        write_whole(staged / FACTS, json.dumps(facts, indent=1) + "\n")


def _tell(plan: Plan, facts: dict[str, Any]) -> None:
    counts = {part: sum(numbers) for part, numbers in facts["counts"].items()}
    left = ", ".join(f"{n:,} {what}" for what, n in facts["left_out"].items() if n)
    print(
        f"{plan.captures}: {counts['train']:,} labelled captures to train on, "
        f"{counts['test']:,} for the live test{f'; left out: {left}' if left else ''}",
        file=sys.stderr,
    )


def _seconds(name: str, text: str | None, otherwise: float) -> float:
    """Seconds since 1970 of an ISO 8601 time; UTC if it has no time zone."""
    if text is None:
        return otherwise
    try:
        at = datetime.fromisoformat(text)
    except ValueError as exc:
        raise DatasetError(
            f"data.{name}={text}: expected a time such as 2026-11-30 or 2026-11-30T12:00:00Z"
        ) from exc
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
