"""A dataset on one page: counts, samples, sizes, duplicates, damaged files."""

import hashlib
import html
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from common.figures import (
    BLUE,
    ORANGE,
    STYLE,
    cards,
    fill,
    inline_svg,
    new_figure,
    to_svg,
    whole_ticks,
)
from common.files import write_whole
from ml.data.checks import readable_part
from ml.report.plots import data_uri

_TEMPLATE = Path(__file__).with_name("dataset.html")
_SAMPLES, _ROWS = 8, 100  # images shown per class, and classes shown
_PAIRS, _LISTED = 24, 200  # duplicates and damaged files listed
_LONGEST_EDGE = 96  # pixels of an image on the page
_CHUNK = 256  # images read at a time
_FEW = 10  # training images of a class, or a tenth of the average, below which it is nearly empty


@dataclass
class Part:
    """Measurements of the images of ``train`` or ``test``, accumulated."""

    counts: NDArray[np.int64]  # (K,)
    sums: NDArray[np.float64]  # (K, H, W, C), sums of pixels
    channels: NDArray[np.int64]  # (C, 256), value counts
    samples: dict[int, list[NDArray[np.uint8]]] = field(default_factory=lambda: defaultdict(list))
    seen: dict[bytes, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))


@dataclass(frozen=True)
class Inspection:
    """A dataset's inspection for the page.

    Attributes:
        twins: groups of images with equal pixels: part, row and class of each.
        files: the report on image files, see `ml.data.folder`; empty for other datasets.
        file_sizes: (N, 2), the files' width and height before packing.
    """

    name: str
    classes: Sequence[str]
    image_size: tuple[int, int]
    digest: str
    parts: Mapping[str, Part]
    twins: Sequence[Sequence[tuple[str, int, int]]]
    pictures: Mapping[tuple[str, int], NDArray[np.uint8]]
    files: Mapping[str, Any]
    file_sizes: NDArray[np.int64]

    @property
    def nearly_empty(self) -> list[str]:
        """Classes with very few training images."""
        counts = self.parts["train"].counts
        least = max(_FEW, counts.mean() / 10)
        return [name for name, count in zip(self.classes, counts, strict=True) if count < least]

    @property
    def leaked(self) -> int:
        """Test images with the same pixels as a training image."""
        return sum(
            sum(part == "test" for part, *_ in group)
            for group in self.twins
            if {"train", "test"} == {part for part, *_ in group}
        )

    @property
    def contradictory(self) -> int:
        """Groups of equal images with different classes."""
        return sum(len({label for *_, label in group}) > 1 for group in self.twins)

    def notes(self) -> list[str]:
        """The most important findings, one sentence each."""
        found = []
        if names := self.nearly_empty:
            found.append(f"Classes with few training images: {', '.join(names)}.")
        train = self.parts["train"].counts
        if train.min() and train.max() >= 3 * train.min():
            found.append(
                f"The largest class has {train.max() / train.min():.1f} times as many images as "
                "the smallest."
            )
        if self.twins:
            copies = sum(len(group) - 1 for group in self.twins)
            found.append(
                f"Duplicate images: {copies:,}. Test images that are also training images: "
                f"{self.leaked:,}. Groups of duplicates with different labels: "
                f"{self.contradictory:,}."
            )
        if damaged := self.files.get("damaged"):
            found.append(f"Files that cannot be decoded and are skipped: {len(damaged):,}.")
        if ignored := self.files.get("ignored"):
            more = " …" if len(ignored) > 3 else ""
            found.append(
                f"Files and folders ignored: {len(ignored):,} ({', '.join(ignored[:3])}{more})."
            )
        return found

    def as_dict(self) -> dict[str, Any]:
        """The findings as values that JSON can hold."""
        mean, std = statistics(self.parts["train"])
        return {
            "name": self.name,
            "digest": self.digest,
            "image_size": list(self.image_size),
            "counts": {
                part: dict(zip(self.classes, found.counts.tolist(), strict=True))
                for part, found in self.parts.items()
            },
            "mean": mean,
            "std": std,
            "nearly_empty": self.nearly_empty,
            "duplicates": sum(len(group) - 1 for group in self.twins),
            "test_images_in_train": self.leaked,
            "contradictions": self.contradictory,
            "damaged": list(self.files.get("damaged", ())),
            "ignored": list(self.files.get("ignored", ())),
        }


def inspect(data: Any, name: str, progress: Callable[[float], None] = lambda _: None) -> Inspection:
    """Reads every image of a data module once, in batches.

    Args:
        progress: called with the share done.
    """
    parts: dict[str, Part] = {}
    read = {part: readable_part(data, part) for part in ("train", "test")}
    for number, (part, (pixels, labels)) in enumerate(read.items()):
        parts[part] = _measured(pixels, labels, len(data.classes), data.image_size)
        progress((number + 1) / 2)
    seen: dict[bytes, list[tuple[str, int, int]]] = defaultdict(list)
    for part, found in parts.items():
        for key, places in found.seen.items():
            seen[key] += [(part, *place) for place in places]
    twins = sorted(
        (group for group in seen.values() if len(group) > 1),
        key=lambda group: (len({label for *_, label in group}) == 1, group),
    )
    pictures = {
        (part, row): next(_batches(read[part][0], slice(row, row + 1)))[1][0]
        for group in twins[:_PAIRS]
        for part, row, _ in group[:2]
    }
    report = getattr(data, "report", None)
    files = json.loads(report.read_text(encoding="utf-8")) if report else {}
    sizes = getattr(data, "file_sizes", None)
    return Inspection(
        name,
        tuple(data.classes),
        tuple(data.image_size),
        data.digest,
        parts,
        twins,
        pictures,
        files,
        sizes() if sizes else np.empty((0, 2), np.int64),
    )


def _measured(pixels: Any, labels: NDArray[np.int64], classes: int, size: tuple[int, int]) -> Part:
    part = Part(
        np.bincount(labels, minlength=classes),
        np.zeros((classes, *size, 3)),
        np.zeros((3, 256), np.int64),
    )
    for start, images in _batches(pixels):
        for channel in range(3):
            values = images[..., channel].ravel()
            part.channels[channel] += np.bincount(values, minlength=256)
        for row, image in enumerate(images, start):
            label = int(labels[row])
            part.sums[label] += image
            if len(part.samples[label]) < _SAMPLES:
                part.samples[label].append(image)
            part.seen[hashlib.blake2b(image, digest_size=16).digest()].append((row, label))
    return part


def _batches(pixels: Any, rows: slice = slice(None)) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The index of the first image, and (n, H, W, 3) of arrays (N, C, H, W) or packed images."""
    planar = isinstance(pixels, np.ndarray)
    first, end, _ = rows.indices(len(pixels))
    for start in range(first, end, _CHUNK):
        images = pixels[start : min(start + _CHUNK, end)]
        if planar:
            images = np.broadcast_to(images, (len(images), 3, *images.shape[2:]))
            images = images.transpose(0, 2, 3, 1)
        yield start, np.ascontiguousarray(images)


def statistics(part: Part) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel, scaled to 0…1."""
    values = np.arange(256) / 255
    shares = part.channels / np.maximum(part.channels.sum(1, keepdims=True), 1)
    mean = shares @ values
    std = np.sqrt(np.maximum(shares @ values**2 - mean**2, 0))
    return mean.round(4).tolist(), std.round(4).tolist()


def write_page(found: Inspection, path: Path) -> list[Path]:
    """Writes the self-contained page, and the figures as JSON beside it."""
    text = json.dumps(found.as_dict(), indent=2, ensure_ascii=False) + "\n"
    write_whole(path, render(found))
    write_whole(path.with_suffix(".json"), text)
    return [path, path.with_suffix(".json")]


def render(found: Inspection) -> str:
    """The page as self-contained text."""
    height, width = found.image_size
    shown = min(len(found.classes), _ROWS)
    more = f"the {shown} largest of {len(found.classes)}" if shown < len(found.classes) else ""
    files = len(found.file_sizes)
    return fill(
        _TEMPLATE,
        {
            "title": html.escape(found.name),
            "cards": _cards(found),
            "notes": _notes(found.notes()),
            "classes_note": more or "classes with few images in orange",
            "classes": _classes(found),
            "samples": _samples(found),
            "sizes_note": f"of {files:,} files" if files else "",
            "sizes": inline_svg(to_svg(_sizes(found.file_sizes, found.image_size)))
            if files
            else f"<p>Every image has {width} × {height} pixels.</p>",
            "channels": _channels(found.parts["train"]),
            "duplicates": _twins(found),
            "damaged": _damaged(found.files.get("damaged", ())),
        },
    )


def _cards(found: Inspection) -> str:
    height, width = found.image_size
    counts = {part: int(measured.counts.sum()) for part, measured in found.parts.items()}
    copies = sum(len(group) - 1 for group in found.twins)
    facts = [
        ("Training images", f"{counts['train']:,}", "validation included"),
        ("Test images", f"{counts['test']:,}", f"{counts['test'] / sum(counts.values()):.0%}"),
        ("Classes", f"{len(found.classes):,}", ""),
        ("Size", f"{width} × {height}", "as the model sees them"),
        ("Copies", f"{copies:,}", f"{found.leaked:,} across train and test"),
        ("Damaged files", f"{len(found.files.get('damaged', ())):,}", ""),
        ("Digest", found.digest[:8], "of all images and labels used"),
    ]
    return cards(facts)


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    lines = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f'<section><h2>Check these</h2><ul class="notes">{lines}</ul></section>'


def _largest(found: Inspection) -> list[int]:
    """The classes in order; if there are many, the largest and the smallest."""
    train = found.parts["train"].counts
    if len(train) <= _ROWS:
        return list(range(len(train)))
    ranked = np.argsort(-train, kind="stable")
    return sorted([*ranked[: _ROWS // 2].tolist(), *ranked[-_ROWS // 2 :].tolist()])


def _classes(found: Inspection) -> str:
    train, test = (found.parts[part].counts for part in ("train", "test"))
    rows = [_row(("class", "training", "test", "share", ""), head=True)]
    few, most = set(found.nearly_empty), max(int(train.max()), 1)
    for label in _largest(found):
        bar = f'<span class="bar" style="--w: {100 * train[label] / most:.1f}%"></span>'
        share = f"{train[label] / max(train.sum(), 1):.1%}"
        cells = f"<td>{train[label]:,}</td><td>{test[label]:,}</td><td>{share}</td><td>{bar}</td>"
        name = found.classes[label]
        kind = ' class="few"' if name in few else ""
        rows.append(f'<tr{kind}><th scope="row">{html.escape(name)}</th>{cells}</tr>')
    return f"<table>{''.join(rows)}</table>"


def _row(cells: Sequence[str], *, head: bool = False) -> str:
    tag, scope = ("th", ' scope="col"') if head else ("td", "")
    inside = "".join(
        f"<{tag}{scope}{'' if place else _TEXT}>{html.escape(str(cell))}</{tag}>"
        for place, cell in enumerate(cells)
    )
    return f"<tr>{inside}</tr>"


_TEXT = ' class="text"'


def _samples(found: Inspection) -> str:
    train = found.parts["train"]
    rows = []
    for label in _largest(found):
        if not (images := train.samples[label]):
            continue
        mean = (train.sums[label] / max(train.counts[label], 1)).round().astype(np.uint8)
        name = html.escape(found.classes[label])
        rows.append(
            f'<tr><th scope="row">{name}</th><td class="mean">{_picture(mean)}</td>'
            f'<td class="text">{"".join(_picture(_reduced(one)) for one in images)}</td></tr>'
        )
    return f'<table class="samples">{"".join(rows)}</table>'


def _reduced(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    if max(height, width) <= _LONGEST_EDGE:
        return image
    scale = _LONGEST_EDGE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def _picture(image: NDArray[np.uint8]) -> str:
    return f'<img alt="" src="{data_uri(image)}">'


def _sizes(sizes: NDArray[np.int64], target: tuple[int, int]) -> Figure:
    """Histogram of the shorter edge, with the model's input size."""
    with matplotlib.rc_context(STYLE):
        figure = new_figure(6.4, 2.8)
        axes = figure.subplots()
        edges = sizes.min(axis=1)
        low, high = int(edges.min()), int(edges.max())
        step = (high - low) // 40 + 1
        axes.hist(edges, bins=(np.arange(low, high + 2 * step, step) - 0.5).tolist(), color=BLUE)
        whole_ticks(axes.xaxis)
        axes.axvline(min(target), color=ORANGE, label=f"model input: {min(target)}")
        common = Counter(map(tuple, sizes.tolist())).most_common(1)[0]
        axes.set_title(f"most frequent: {common[0][0]} × {common[0][1]}, {common[1]:,} files")
        axes.set_xlabel("shorter edge in pixels")
        axes.set_ylabel("files")
        axes.legend()
    return figure


def _channels(part: Part) -> str:
    mean, std = statistics(part)
    total = max(int(part.counts.sum()), 1)
    image = (part.sums.sum(axis=0) / total).round().astype(np.uint8)
    rows = [_row(("", "mean", "standard deviation"), head=True)]
    rows += [
        _row((name, f"{m:.4f}", f"{s:.4f}"))
        for name, m, s in zip(("red", "green", "blue"), mean, std, strict=True)
    ]
    picture = _picture(_reduced(image)).replace("<img", '<img style="width: 8rem"')
    return f"<table>{''.join(rows)}</table><p>The mean image:</p>{picture}"


def _twins(found: Inspection) -> str:
    if not found.twins:
        return ""
    figures = []
    for group in found.twins[:_PAIRS]:
        pictures = "".join(
            _picture(_reduced(found.pictures[part, row])) for part, row, _ in group[:2]
        )
        places = [
            f"{html.escape(found.classes[label])}, {part} {row}" for part, row, label in group
        ]
        more = f" … {len(group) - 4} more" if len(group) > 4 else ""
        figures.append(
            f"<figure>{pictures}<figcaption>{'<br>'.join(places[:4])}{more}</figcaption></figure>"
        )
    note = f"<small>{len(found.twins):,} groups of equal images, differing classes first</small>"
    files = ""
    if groups := found.files.get("duplicates"):
        rows = [
            _row([f"{number}", " = ".join(group[:6])]) for number, group in enumerate(groups, 1)
        ]
        files = f"<p>Identical files:</p><table>{''.join(rows[:_LISTED])}</table>".replace(
            "<td>", '<td class="text">'
        )
    pairs = f'<div class="twins">{"".join(figures)}</div>'
    return f"<section><h2>Copies {note}</h2>{pairs}{files}</section>"


def _damaged(damaged: Sequence[Mapping[str, str]]) -> str:
    if not damaged:
        return ""
    rows = [_row((one["path"], one["reason"])) for one in damaged[:_LISTED]]
    table = "".join(rows).replace("<td>", '<td class="text">')
    title = f"<h2>Damaged files <small>{len(damaged):,}</small></h2>"
    return f"<section>{title}<table>{table}</table></section>"
