"""Checks a model's behaviour (invariance, weakest class, calibration, garbage input) and its
dataset.

The dataset is the model's own: found by the config.yaml of its run folder, or CIFAR-10 if it was
trained on that; a model is never judged by other data.

Exit codes: 0 every check passed, 2 the input cannot be used, 3 a check failed.

  bazel run //ml:behaviour                                       # the bundled model
  bazel run //ml:behaviour -- runs/<folder> --images 2000
  bazel run //ml:behaviour -- model.onnx --accuracy 0.5 --class-recall 0.2
"""

import argparse
import html
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.command_line import command_parser, count
from common.figures import fill
from common.files import user_path, write_whole
from common.model.artifact import ArtifactMetadata
from common.terminal import Progress, terminal
from ml.artifact.artifact import Artifact, ArtifactError, load_artifact, model_path
from ml.artifact.evaluation import Labelled
from ml.behaviour.checks import (
    BehaviourLimits,
    Check,
    check_balance,
    check_garbage,
    check_invariance,
    check_scores,
)
from ml.data.cifar10 import DatasetError
from ml.data.duplicates import Duplicates, class_counts, find_duplicates
from ml.data.fetch import FetchError
from ml.report.plots import data_uri
from ml.runs.datasets import Dataset, dataset_of_file

_TEMPLATE = Path(__file__).parent / "page.html"
_SHOWN = 24  # pairs of duplicates


@dataclass(frozen=True)
class DataFacts:
    """Facts about the dataset: images per class, duplicates."""

    classes: tuple[str, ...]
    train: Labelled
    test: Labelled
    train_counts: tuple[int, ...]
    test_counts: tuple[int, ...]
    duplicates: Duplicates

    @property
    def balanced(self) -> bool:
        """Whether every class has as many images as the others, in both parts."""
        return len({*self.train_counts}) == 1 == len({*self.test_counts})

    def as_dict(self) -> dict[str, object]:
        """The facts as JSON-ready values."""
        return {
            "train_counts": dict(zip(self.classes, self.train_counts, strict=True)),
            "test_counts": dict(zip(self.classes, self.test_counts, strict=True)),
            "balanced": self.balanced,
            "exact_duplicates": self.duplicates.exact,
            "near_duplicates": len(self.duplicates.near),
            "near_duplicate_share": self.duplicates.share,
            "search_ms": round(self.duplicates.elapsed_ms, 1),
            "pairs": [asdict(pair) for pair in self.duplicates.near],
        }


def print_checks(metadata: ArtifactMetadata, checks: Sequence[Check], console: Console) -> None:
    """Prints one row per check, failures in red."""
    title = f"{metadata.name} {metadata.version[:12]}"
    table = Table(title=title, title_justify="left")
    for name in ("check", "value", "limit", ""):
        table.add_column(name, justify="right" if name in ("value", "limit") else "left")
    table.add_column("what it measures", overflow="fold")
    for check in checks:
        verdict = Text("passed", "green") if check.passed else Text("failed", "bold red")
        sign = "≥" if check.at_least else "≤"
        limit = f"{sign} {_shown(check, check.limit)}"
        table.add_row(check.name, _shown(check, check.value), limit, verdict, sentence(check))
    console.print(table, markup=False)


def print_data(facts: DataFacts, console: Console) -> None:
    """A few lines on balance and duplicates."""
    found = facts.duplicates
    for part, counts in (("train", facts.train_counts), ("test", facts.test_counts)):
        total, low, high = sum(counts), min(counts), max(counts)
        each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        console.print(f"{part}: {total:,} images, {each} per class", highlight=False)
    wrong = sum(not pair.same_label for pair in found.near)
    mirrored = sum(pair.mirrored for pair in found.near)
    console.print(
        f"duplicates: {found.exact} of {found.test_images:,} test images are exact copies of "
        f"training images, {len(found.near)} ({found.share:.1%}) near copies ({mirrored} "
        f"mirrored, {wrong} with another label); searched in {found.elapsed_ms:,.0f} ms",
        highlight=False,
    )


def sentence(check: Check) -> str:
    """What a check measured, with its parts."""
    if not check.details:
        return check.meaning
    worst = sorted(check.details.items(), key=lambda item: item[1], reverse=not check.at_least)
    parts = ", ".join(f"{name} {value:.1%}" for name, value in worst[:4])
    return f"{check.meaning} ({parts})"


def write_findings(
    metadata: ArtifactMetadata, checks: Sequence[Check], facts: DataFacts | None, folder: Path
) -> list[Path]:
    """`behaviour.json` and the self-contained `behaviour.html`."""
    found = {
        "model": metadata.name,
        "model_version": metadata.version,
        "passed": all(check.passed for check in checks),
        "checks": [check.as_dict() for check in checks],
        "data": facts.as_dict() if facts else None,
    }
    write_whole(folder / "behaviour.json", json.dumps(found, indent=2) + "\n")
    write_whole(folder / "behaviour.html", _page(metadata, checks, facts))
    return [folder / "behaviour.json", folder / "behaviour.html"]


def _shown(check: Check, value: float) -> str:
    return f"{value:.3f}" if "error" in check.name else f"{value:.1%}"


def _page(metadata: ArtifactMetadata, checks: Sequence[Check], facts: DataFacts | None) -> str:
    failed = sum(not check.passed for check in checks)
    rows = []
    for check in checks:
        sign, kind = "≥" if check.at_least else "≤", "passed" if check.passed else "failed"
        cells = [check.name, _shown(check, check.value), f"{sign} {_shown(check, check.limit)}"]
        cells += [kind, sentence(check)]
        inside = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        rows.append(f'<tr class="{kind}">{inside}</tr>')
    parts = {
        "model": html.escape(f"{metadata.name} {metadata.version[:12]}"),
        "kind": "failed" if failed else "passed",
        "verdict": f"{failed} of {len(checks)} failed" if failed else f"{len(checks)} passed",
        "rows": "".join(rows),
        "data": _data(facts) if facts else "",
    }
    return fill(_TEMPLATE, parts)


def _data(facts: DataFacts) -> str:
    found, figures = facts.duplicates, []
    for pair in found.near[:_SHOWN]:
        names = [html.escape(facts.classes[int(facts.test.labels[pair.test])])]
        names.append(html.escape(facts.classes[int(facts.train.labels[pair.train])]))
        note = f"{names[0]}" if pair.same_label else f"{names[0]} / <b>{names[1]}</b>"
        pictures = _picture(facts.test.images[pair.test]) + _picture(facts.train.images[pair.train])
        mirrored = ", mirrored" if pair.mirrored else ""
        caption = f"{note}<br>test {pair.test}, train {pair.train}{mirrored}"
        figures.append(f"<figure>{pictures}<figcaption>{caption}</figcaption></figure>")
    balance = "balanced" if facts.balanced else "not balanced"
    return (
        f"<section><h2>Data: {balance}; {found.exact} exact and {len(found.near)} near duplicates "
        f"({found.share:.1%} of the test images)</h2>"
        "<p>Each pair shows the test image on the left and the training image on the right, most "
        "similar first. A differing label is bold.</p>"
        f'<div class="pairs">{"".join(figures)}</div></section>'
    )


def _picture(image: NDArray[np.uint8]) -> str:
    return f'<img alt="" src="{data_uri(image)}">'


FAILED, BAD_INPUT = 3, 2
_BATCH = 200


def main(arguments: Sequence[str], console: Console) -> int:
    options = _options().parse_args(arguments)
    limits = BehaviourLimits(
        **{field.name: getattr(options, field.name) for field in fields(BehaviourLimits)}
    )
    try:
        path = model_path(options.model or options.run)
        artifact = load_artifact(path, threads=options.threads)
        with Progress("reading the images", console=console) as progress:
            dataset = dataset_of_file(path, artifact.metadata)
            test = dataset.read("test")
            checks = check_model(
                artifact, test, options.images, limits, progress, mirrored=dataset.mirrored
            )
            facts = None if options.no_data else describe_data(dataset, test, progress)
            if facts:
                checks.append(check_balance((facts.train_counts, facts.test_counts), limits))
        print_checks(artifact.metadata, checks, console)
        if facts:
            print_data(facts, console)
        for path in write_findings(artifact.metadata, checks, facts, user_path(options.out)):
            console.print(str(path), highlight=False, soft_wrap=True)
    except (ArtifactError, DatasetError, FetchError, OSError) as exc:
        console.print(str(exc), style="red", markup=False, highlight=False, soft_wrap=True)
        return BAD_INPUT
    failed = [check.name for check in checks if not check.passed]
    console.print(
        f"failed: {', '.join(failed)}" if failed else f"{len(checks)} checks passed",
        style="bold red" if failed else "green",
    )
    return FAILED if failed else 0


def check_model(
    artifact: Artifact,
    test: Labelled,
    images: int,
    limits: BehaviourLimits,
    progress: Progress,
    *,
    mirrored: bool = True,
) -> list[Check]:
    """Metrics on all test images of the model's dataset; invariance on the first `images` of them,
    mirrored only if training does so; then garbage.
    """
    metadata = artifact.metadata
    part = test.images[:images]
    progress.begin("predicting", len(test.images) + 7 * len(part) + 600)

    def predict(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts = []
        for start in range(0, len(batch), _BATCH):
            parts.append(artifact.predict(batch[start : start + _BATCH]).probabilities)
            progress.advance(len(parts[-1]))
        return np.concatenate(parts)

    probabilities = predict(test.images)
    claimed = metadata.test_metrics
    comparable = claimed.accuracy if claimed.images == len(test.images) else None
    return [
        *check_scores(probabilities, test, metadata.classes, limits, comparable),
        *check_invariance(predict, part, probabilities[: len(part)], limits, mirrored=mirrored),
        check_garbage(predict, metadata.input_size, limits),
    ]


def describe_data(dataset: Dataset, test: Labelled, progress: Progress) -> DataFacts:
    """Class balance and duplicates of a dataset whose test part has been read."""
    train, classes = dataset.read("train"), dataset.classes
    progress.begin("comparing test with training images", 1.0)
    found = find_duplicates(train, test, progress.update)
    counts = [class_counts(part, len(classes)) for part in (train, test)]
    return DataFacts(classes, train, test, counts[0], counts[1], found)


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//ml:behaviour", __doc__)
    add = parser.add_argument
    named = parser.add_mutually_exclusive_group()
    about = "model.onnx or a run folder (default: the bundled model)"
    named.add_argument("run", nargs="?", help=about)
    named.add_argument("--model", help="the same, as for //ml:drift")
    add("--images", type=count, default=2000, help="test images for invariance (%(default)s)")
    add("--no-data", action="store_true", help="skip the dataset's checks")
    add("--out", default="behaviour-report", help="folder for results (%(default)s)")
    add("--threads", type=int, default=0, help="inference threads (0: one per core)")
    limits = parser.add_argument_group("limit; the default suits a model with 94 % accuracy")
    for field in fields(BehaviourLimits):
        kind = "most" if field.name in ("calibration_error", "garbage") else "least"
        limits.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=float,
            metavar="SHARE",
            default=field.default,
            help=f"at {kind} (%(default)s)",
        )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal(130)))
