"""The effects of a pull request as a Markdown comment: `bazel run //tools:model_card_comment`.

  bazel run //tools:model_card_figures -- --output head.json
  bazel run //tools:model_card_figures -- --at origin/main --output base.json
  bazel run //tools:model_card_comment -- --base base.json --head head.json --output comment.md

Exit codes: 0 written, 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import Any

from common.command_line import command_parser
from common.files import user_path
from common.intervals import wilson


@dataclass(frozen=True)
class Change:
    """Change of a proportion from base to head, with its 95 % interval."""

    base: float
    head: float
    low: float
    high: float

    @property
    def is_real(self) -> bool:
        """Whether the change is significant."""
        return self.low > 0 or self.high < 0


def change(base: tuple[int, int], head: tuple[int, int]) -> Change:
    """Difference of two proportions, each as (hits, trials), taken as independent.

    Both models were tested on the same images, so this is conservative.
    Source: Newcombe 1998, Statistics in Medicine 17, 873-890, method 10.
    """
    (l1, u1), (l2, u2) = wilson(*base), wilson(*head)
    p1, p2 = (hits / trials if trials else 0.0 for hits, trials in (base, head))
    low = p2 - p1 - sqrt((p2 - l2) ** 2 + (u1 - p1) ** 2)
    high = p2 - p1 + sqrt((u2 - p2) ** 2 + (p1 - l1) ** 2)
    return Change(p1, p2, low, high)


def accuracy(base: Mapping[str, Any], head: Mapping[str, Any]) -> Change:
    """Change of accuracy, from confusion matrices whose rows are true classes."""
    return change(_right(base["confusion"]), _right(head["confusion"]))


def _right(confusion: Sequence[Sequence[int]]) -> tuple[int, int]:
    return sum(row[k] for k, row in enumerate(confusion)), sum(map(sum, confusion))


def recalls(base: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Change]:
    """Change of recall for each class that both models have."""
    pairs = {name: k for k, name in enumerate(base["classes"])}
    found = {}
    for k, name in enumerate(head["classes"]):
        if name in pairs:
            row, before = head["confusion"][k], base["confusion"][pairs[name]]
            found[name] = change((before[pairs[name]], sum(before)), (row[k], sum(row)))
    return found


@dataclass(frozen=True)
class Layers:
    """Layers of an image: number, size, and the download for a machine that has the base."""

    changed: Sequence[str]
    count: int
    total_bytes: int
    new_bytes: int


def layers(base: Sequence[Mapping[str, Any]], head: Sequence[Mapping[str, Any]]) -> Layers:
    """Compares layers by digest."""
    known = {layer["digest"] for layer in base}
    new = [layer for layer in head if layer["digest"] not in known]
    return Layers(
        [layer["name"] for layer in new],
        len(head),
        sum(layer["bytes"] for layer in head),
        sum(layer["bytes"] for layer in new),
    )


MEMORY_MIB, COLD_SHARE = 1024, 0.01  # of the default deployment
BAD_INPUT = 2  # exit code
Figures = Mapping[str, Any]


def to_markdown(base: Figures, head: Figures) -> str:
    """Renders the comment."""
    return (
        "\n".join([*_summary(base, head), "", *_classes(base, head), "", *_foot(base, head)]) + "\n"
    )


def _summary(base: Figures, head: Figures) -> Iterator[str]:
    yield "### Model card of this change"
    yield ""
    if base["model_version"] == head["model_version"]:
        yield f"The model is the same: `{head['model_version'][:12]}`."
    else:
        yield f"Another model: `{base['model_version'][:12]}` → `{head['model_version'][:12]}`."
    yield ""
    yield "| | base | this change | difference |"
    yield "|---|---:|---:|---:|"
    right = accuracy(base["test"], head["test"])
    yield f"| accuracy | {right.base:.2%} | {right.head:.2%} | {_points(right)} |"
    for name, key, unit in (
        ("model.onnx", "onnx_bytes", "MB"),
        ("model.int8.onnx", "int8_bytes", "MB"),
        ("p50, one caller", "p50_ms", "ms"),
        ("p99, one caller", "p99_ms", "ms"),
        ("cold start", "cold_start_ms", "ms"),
    ):
        yield _row(name, base.get(key), head.get(key), unit)
    yield _image(base, head)
    costs = [_cost(figures) for figures in (base, head)]
    yield f"| 1,000 requests | ${costs[0]:.5f} | ${costs[1]:.5f} | {_relative(*costs)} |"


def _row(name: str, base: float | None, head: float | None, unit: str) -> str:
    scale = 1e6 if unit == "MB" else 1
    told = ["—" if value is None else f"{value / scale:.2f} {unit}" for value in (base, head)]
    difference = "—" if base is None or head is None else _relative(base, head)
    return f"| {name} | {told[0]} | {told[1]} | {difference} |"


def _relative(base: float, head: float) -> str:
    if base == head:
        return "same"
    return f"{head / base - 1:+.1%}" if base else "—"


def _points(change: Change) -> str:
    if change.base == change.head:
        return "same"
    ends = f"{100 * change.low:+.2f} … {100 * change.high:+.2f}"
    mark = "**" if change.is_real else ""
    return f"{mark}{100 * (change.head - change.base):+.2f} points{mark} ({ends})"


def _image(base: Figures, head: Figures) -> str:
    before, now = layers([], base["layers"]), layers(base["layers"], head["layers"])
    new = f"{now.new_bytes / 1e6:.2f} MB in {len(now.changed)} of {now.count} layers"
    difference = f"{new}: {', '.join(now.changed)}" if now.changed else "same"
    sizes = [f"{one.total_bytes / 1e6:.1f} MB" for one in (before, now)]
    return f"| image | {sizes[0]} | {sizes[1]} | {difference} |"


def _cost(figures: Figures) -> float:
    service = Service(figures["p50_ms"], MEMORY_MIB, figures["cold_start_ms"], COLD_SHARE)
    return per_thousand(service, read_prices()).total


def _classes(base: Figures, head: Figures) -> Iterator[str]:
    changes = recalls(base["test"], head["test"])
    moved = sum(change.base != change.head for change in changes.values())
    yield f"<details><summary>Recall by class: {moved} of {len(changes)} changed</summary>"
    yield ""
    yield "| class | base | this change | difference (95 %) |"
    yield "|---|---:|---:|---:|"
    for name, change in sorted(changes.items(), key=lambda item: item[1].head - item[1].base):
        yield f"| {name} | {change.base:.1%} | {change.head:.1%} | {_points(change)} |"
    yield ""
    yield "</details>"


def _foot(base: Figures, head: Figures) -> Iterator[str]:
    yield (
        f"<sub>`{base['revision']}` → `{head['revision']}`. Differences in bold are beyond the 95 %"
        " interval of chance, which takes the two test runs as independent: cautious, since both"
        " models answered the same images. Times are of one shared machine. Cost: Lambda of"
        f" {MEMORY_MIB} MiB behind API Gateway, {COLD_SHARE:.0%} cold starts, list prices, see"
        " docs/cost.md.</sub>"
    )


def main(arguments: Sequence[str]) -> int:
    options = _options().parse_args(arguments)
    try:
        base, head = (json.loads((user_path(f)).read_text()) for f in (options.base, options.head))
        text = to_markdown(base, head)
        if options.output:
            (user_path(options.output)).write_text(text, encoding="utf-8")
    except (OSError, KeyError, ValueError) as error:
        print(f"comment: {type(error).__name__}: {error}", file=sys.stderr)
        return BAD_INPUT
    print(text, end="")
    return 0


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//tools:model_card_comment", __doc__)
    parser.add_argument(
        "--base", required=True, metavar="FILE", help="figures of the base revision"
    )
    parser.add_argument("--head", required=True, metavar="FILE", help="figures of the change")
    parser.add_argument("--output", metavar="FILE", help="also write the comment to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))


PRICES = Path(__file__).with_name("prices.toml")
REQUEST_KB = 512  # API Gateway counts larger requests as several
GIB, MB = 1 << 30, 10**6

Prices = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Service:
    """The parameters of a request's cost.

    Attributes:
        duration_ms: billed time of a warm request, on average.
        start_ms: billed time of a cold start; AWS bills the initialisation too.
        cold_share: share of requests that start a new environment.
        body_kb: size of request or response, whichever is larger; at most REQUEST_KB.
        log_bytes: log volume of a request in CloudWatch Logs.
    """

    duration_ms: float
    memory_mib: int
    start_ms: float = 0.0
    cold_share: float = 0.0
    body_kb: float = 4.0
    log_bytes: float = 600.0


@dataclass(frozen=True)
class PerThousand:
    """US dollars per thousand requests, by part."""

    compute: float
    requests: float
    front: float
    logs: float

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return self.compute + self.requests + self.front + self.logs


def read_prices(path: Path = PRICES) -> Prices:
    """Reads the checked-in prices, or another file."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def per_thousand(service: Service, prices: Prices) -> PerThousand:
    """Lambda behind API Gateway, with its logs."""
    billed_s = (service.duration_ms + service.cold_share * service.start_ms) / 1000
    counted = ceil(service.body_kb / REQUEST_KB)
    return PerThousand(
        compute=1000 * billed_s * service.memory_mib / 1024 * prices["lambda"]["gib_second"],
        requests=1000 * prices["lambda"]["million_requests"] / 10**6,
        front=1000 * counted * prices["api_gateway_http"]["million_requests"] / 10**6,
        logs=1000 * service.log_bytes / 10**9 * prices["cloudwatch"]["log_gb"],
    )
