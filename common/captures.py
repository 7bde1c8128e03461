"""Captured predictions and their labels: what the service keeps, the probability with which it was
kept, and what people or other systems say is right. The service writes them; everything else reads.

The layout of the store (a folder, or s3://bucket/prefix):

    captures/<day>/<hour>/<writer>-<number>.jsonl.gz   batches of predictions, written once
    labels/<request id>/<index>/<labeller>-<number>.json   one statement about one prediction
    labels/batches/<digest>.jsonl.gz                   statements that were imported together

Days and hours are UTC. No object is ever changed; a later statement of the same labeller replaces
an earlier one, and deleting a request (`Captures.forget`) writes its batch anew without it first.
"""

import gzip
import hashlib
import re
import time
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

import msgspec

from common.files import kept_place
from common.objects import Damaged, Store

RequestId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Index = Annotated[int, msgspec.Meta(ge=0, le=9999)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
# A name in a key: a person's, or FEEDBACK.
Labeller = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,39}\Z")]

FEEDBACK = "feedback"  # the labeller of labels that callers send to POST /feedback
CAPTURES, LABELS = "captures/", "labels/"
_TOGETHER = f"{LABELS}batches/"


class CapturedAnswer(msgspec.Struct, frozen=True):
    """One captured prediction, without its image.

    `probability` is the probability with which this prediction was kept, so it stands for
    1/probability predictions of the traffic (Horvitz and Thompson 1952).
    """

    request_id: RequestId
    index: Index  # position among the images of its request
    time: float  # seconds since 1970
    model_version: Digest
    probabilities: tuple[float, ...]  # (K,), by class
    probability: Share

    @property
    def key(self) -> tuple[str, int]:
        """Identifies the prediction in labels."""
        return self.request_id, self.index

    @property
    def answer(self) -> int:
        """The predicted class."""
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__)


class Capture(CapturedAnswer, frozen=True):
    """One captured prediction. `image` is the model's input as a PNG, (H, W, 3) RGB, without any
    metadata of the uploaded file."""

    image: bytes


class Label(msgspec.Struct, frozen=True):
    """One labeller's statement about one prediction.

    `label` is the name of a class; None withdraws the labeller's earlier statement. `propensity` is
    the chance that this captured answer had of being shown to the labeller, where it was drawn by
    chance; None where whoever says it chose it.
    """

    request_id: RequestId
    index: Index
    label: str | None
    labeller: Labeller
    time: float  # seconds since 1970
    propensity: Share | None = None

    @property
    def key(self) -> tuple[str, int]:
        """The answer's `Capture.key`."""
        return self.request_id, self.index


@dataclass(frozen=True)
class Verdict:
    """The combined statement of all labellers of one prediction.

    `label` is None where no majority agrees. `said` is by labeller.
    """

    label: str | None
    said: dict[str, str] = field(default_factory=dict)
    propensity: float | None = None


_Answer = TypeVar("_Answer", bound=CapturedAnswer)
_Row = TypeVar("_Row", bound=msgspec.Struct)


_GZIP = 16  # zlib window bits: gzip framing, without a timestamp
_AT_ONCE = 1 << 16  # uncompressed


def encode_rows(rows: Iterable[Capture | Label]) -> bytes:
    """Encodes a batch as gzipped JSON lines; equal rows give equal bytes.

    Base64 images hold no repetitions: without searching for them, a batch takes a
    third of the time and 4 % more bytes. Rows may come from a generator, so that few are in memory.
    """
    encode = msgspec.json.Encoder().encode
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | _GZIP, 9, zlib.Z_RLE)
    lines, packed = bytearray(), bytearray()
    for row in rows:
        lines += encode(row) + b"\n"
        if len(lines) > _AT_ONCE:
            packed += packer.compress(lines)
            lines.clear()
    return bytes(packed + packer.compress(lines) + packer.flush())


def decode_rows(data: bytes, kind: type[_Row], key: str = "") -> list[_Row]:
    """The rows of a batch, or of a single statement, which is an uncompressed line.

    Raises:
        Damaged: names the object and what is wrong in it.
    """
    try:
        lines = data if key.endswith(".json") else gzip.decompress(data)
        return msgspec.json.Decoder(kind).decode_lines(lines)
    except (OSError, EOFError, ValueError, zlib.error) as exc:  # msgspec's are ValueErrors
        raise Damaged(f"{key or 'a batch'} holds no {kind.__name__.lower()}s: {exc}") from exc


def batch_key(writer: str, number: int, at: float) -> str:
    """The key of a batch that a writer writes at `time`."""
    return f"{CAPTURES}{hour_of(at)}/{writer}-{number:06d}.jsonl.gz"


def sampling_probability(probabilities: Sequence[float], share: float, unsure: float) -> float:
    """Probability of keeping a prediction: `share` if it is confident, `unsure` on a tie between
    two classes.

    It grows linearly with `unsureness` in between.
    """
    return min(1.0, share + max(0.0, unsure - share) * unsureness(probabilities))


def unsureness(probabilities: Sequence[float]) -> float:
    """1 less the margin between the two most probable classes (margin sampling, Scheffer, Decomain
    and Wrobel 2001): 0 for a confident prediction, 1 for a tie.
    """
    first, second = sorted(probabilities, reverse=True)[:2]
    return 1.0 - (first - second)


def hash_uniform(text: str) -> float:
    """A number in [0, 1) derived from the text, so that repeated draws agree."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]) / 2**56


def usual_location() -> str:
    """The default location of captures for commands."""
    return kept_place("KILN_CAPTURE", "captures")


_READERS = 16  # objects read from a bucket at once


class Captures:
    """The captured predictions and labels in a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def rows(self, since: float = 0.0, until: float = float("inf")) -> Iterator[Capture]:
        """The predictions of a time span, batch by batch, each once.

        Raises:
            Damaged: an object is not a batch.
            StoreError: the store cannot be read.
        """
        return self._once(Capture, since, until)

    def answers(self, since: float = 0.0, until: float = float("inf")) -> Iterator[CapturedAnswer]:
        """Like `rows`, without decoding the images."""
        return self._once(CapturedAnswer, since, until)

    def _once(self, kind: type[_Answer], since: float, until: float) -> Iterator[_Answer]:
        seen = set[tuple[str, int, float]]()
        for batch in self._read(self._batches(since, until), kind):
            for row in batch:
                mark = (*row.key, row.time)
                if since <= row.time < until and mark not in seen:
                    seen.add(mark)
                    yield row

    def write(self, writer: str, number: int, rows: Sequence[Capture], at: float) -> bool:
        """Adds a batch; false if another writer took this number."""
        return self.store.create(batch_key(writer, number, at), encode_rows(rows))

    def say(self, label: Label) -> bool:
        """Adds a labeller's next statement; false if another process was faster."""
        folder = f"{LABELS}{label.request_id}/{label.index}/"
        number = len(self.store.entries(f"{folder}{label.labeller}-"))
        return self.store.create(
            f"{folder}{label.labeller}-{number:03d}.json", msgspec.json.encode(label)
        )

    def say_together(self, labels: Sequence[Label]) -> str:
        """Adds statements as one object named by its content; returns its key."""
        data = encode_rows(labels)
        key = f"{_TOGETHER}{hashlib.sha256(data).hexdigest()}.jsonl.gz"
        self.store.create(key, data)
        return key

    def said(self, request_id: str, index: int) -> list[Label]:
        """The individual statements about one prediction, without imported batches."""
        keys = [one.key for one in self.store.entries(f"{LABELS}{request_id}/{index}/")]
        return [label for batch in self._read(keys, Label) for label in batch]

    def labels(self, about: Collection[str] | None = None) -> list[Label]:
        """The statements in order of time.

        Args:
            about: request ids; single statements about others are not read. None: all.
        """
        keys = [one.key for one in self.store.entries(LABELS)]
        if about is not None:
            keys = [key for key in keys if key.startswith(_TOGETHER) or _request_in(key) in about]
        found = [label for batch in self._read(keys, Label) for label in batch]
        if about is not None:
            found = [label for label in found if label.request_id in about]
        return sorted(found, key=lambda label: label.time)

    def verdicts(self, about: Collection[str] | None = None) -> dict[tuple[str, int], Verdict]:
        """The verdict on every labelled prediction, by `Capture.key`.

        Args:
            about: see `labels`.
        """
        return verdicts(self.labels(about))

    def forget(self, request_id: str) -> int:
        """Deletes the predictions of a request and their labels; returns the number of predictions.

        A batch is first rewritten without the request, so that a killed call loses nothing else.
        """
        forgotten = 0
        for key in self._batches(0.0, float("inf")):
            rows = decode_rows(self.store.read(key), Capture, key)
            rest = [row for row in rows if row.request_id != request_id]
            if len(rest) < len(rows):
                forgotten += len(rows) - len(rest)
                self._replace(key, rest)
        for one in self.store.entries(f"{LABELS}{request_id}/"):
            self.store.delete(one.key)
        for one in self.store.entries(_TOGETHER):
            labels = decode_rows(self.store.read(one.key), Label, one.key)
            rest_ = [label for label in labels if label.request_id != request_id]
            if len(rest_) < len(labels):
                if rest_:
                    self.say_together(rest_)
                self.store.delete(one.key)
        return forgotten

    def _replace(self, key: str, rows: Sequence[Capture]) -> None:
        stem = key.removesuffix(".jsonl.gz")
        if rows:
            data = encode_rows(rows)
            self.store.create(f"{stem}.{hashlib.sha256(data).hexdigest()[:12]}.jsonl.gz", data)
        self.store.delete(key)

    def _batches(self, since: float, until: float) -> list[str]:
        """Keys of the batches that may hold predictions of the time span, in order."""
        # A batch is written within minutes of its first prediction.
        after = f"{CAPTURES}{hour_of(max(0.0, since))}"
        keys = (one.key for one in self.store.entries(CAPTURES, after=after))
        last = "9" if until == float("inf") else hour_of(until + _LATEST_S)
        return [key for key in keys if re.match(_BATCH, key) and _hour_in(key) <= last]

    def _read(self, keys: Sequence[str], kind: type[_Row]) -> Iterator[list[_Row]]:
        """Contents of the objects, in order; those deleted meanwhile are skipped."""

        def read(key: str) -> list[_Row]:
            try:
                data = self.store.read(key)
            except KeyError:
                return []
            return decode_rows(data, kind, key)

        with ThreadPoolExecutor(_READERS) as pool:
            for start in range(0, len(keys), 4 * _READERS):
                yield from pool.map(read, keys[start : start + 4 * _READERS])


_BATCH = rf"{CAPTURES}\d{{4}}-\d\d-\d\d/\d\d/[^/]+\.jsonl\.gz$"
_LATEST_S = 3600.0


def hour_of(at: float) -> str:
    """The folder below CAPTURES for batches written at that time."""
    return time.strftime("%Y-%m-%d/%H", time.gmtime(at))


def _request_in(key: str) -> str:
    return key[len(LABELS) :].partition("/")[0]


def _hour_in(key: str) -> str:
    return key[len(CAPTURES) : len(CAPTURES) + len("2026-11-30/12")]


def verdicts(labels: Iterable[Label]) -> dict[tuple[str, int], Verdict]:
    """Verdicts from the latest statement of each labeller, by `Capture.key`."""
    latest: dict[tuple[str, int], dict[str, Label]] = {}
    for label in sorted(labels, key=lambda label: label.time):
        latest.setdefault(label.key, {})[label.labeller] = label
    found = {}
    for key, by_labeller in latest.items():
        stated = [label for label in by_labeller.values() if label.label is not None]
        if stated:
            said = {label.labeller: str(label.label) for label in stated}
            found[key] = Verdict(_majority(said), said, _propensity(stated))
    return found


def _majority(said: dict[str, str]) -> str | None:
    (label, count), *others = Counter(said.values()).most_common(2)
    return None if others and others[0][1] == count else label


def _propensity(labels: Sequence[Label]) -> float | None:
    known = [label.propensity for label in labels]
    return None if None in known else max(p for p in known if p is not None)
