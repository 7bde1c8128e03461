"""Sends copies of requests to a version without traffic and reports where it disagrees.

Requests are JSON lines {"image": base64}, from a file or as they come (-), or the golden set. No
caller waits for any of it. Exit code 1 if more than --most of the answers differ.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.command_line import positive
from common.files import user_path
from infra.release.aws.clients import Clock
from infra.release.aws.function import SHADOW, LambdaFunction, predict_event, trace_id
from infra.release.commands.command import (
    Open,
    Result,
    Terminal,
    entry,
    golden_of,
    open_context,
    parser,
    run,
)
from infra.release.errors import REFUSED, ReleaseError
from infra.release.evidence.collector import CONFIDENCE, DURATION, PREDICTIONS, embedded

_LISTED = 10


def main(arguments: Sequence[str], out: Console, errors: Console, open_: Open | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run(_options().parse_args(arguments), report, open_, out, errors)


def report(options: argparse.Namespace, terminal: Terminal, open_: Open) -> Result:
    """Sends shadow traffic to a version and reports the differences."""
    context = open_context(options, terminal, open_)
    function, timeline = context.function, context.timeline
    function.demand(options.candidate)
    stable = function.alias().version
    images = sampled(_images(options), options.share)
    for version in (stable, options.candidate):
        function.send_as_alias_does(version)
    with timeline.shown("comparing"):
        found = shadow(
            function,
            stable,
            options.candidate,
            images,
            options.rate,
            context.collector.lines,
            context.clock,
            options.wait,
            timeline.wait,
        )
    data = {"stable": stable, "candidate": options.candidate, "share": found.share, **asdict(found)}
    code = REFUSED if found.share > options.most else 0
    return Result(data, partial(_show, stable, options.candidate, found), code)


def _images(options: argparse.Namespace) -> Iterable[bytes]:
    if options.requests is None:
        golden = golden_of(options.golden)
        return [image.data for image in golden.images] if golden else []
    if options.requests == "-":
        return _read(sys.stdin)
    path = user_path(options.requests)
    try:
        return _read(path.open(encoding="utf-8", errors="replace"))  # `_read` names the line
    except OSError as exc:
        raise ReleaseError(f"{path} cannot be read ({exc.strerror})") from exc


def _read(file: TextIO) -> Iterator[bytes]:
    with file:
        for number, line in enumerate(file, start=1):
            try:
                yield base64.b64decode(json.loads(line)["image"], validate=True)
            except (ValueError, KeyError, TypeError) as exc:
                raise ReleaseError(
                    f'line {number}: expected {{"image": base64}} ({exc!r})'
                ) from exc


def _show(stable: str, candidate: str, found: Disagreement, console: Console) -> None:
    table = Table(title=f"Version {candidate} in the shadow of {stable}", title_justify="left")
    for name in ("", f"stable {stable}", f"candidate {candidate}"):
        table.add_column(name, justify="left" if not name else "right")
    table.add_row("failed", *(f"{count:,}" for count in found.failed))
    table.add_row("mean confidence", *(f"{value:.3f}" for value in found.confidence))
    table.add_row("p99 of the time", *(f"{1000 * value:.1f} ms" for value in found.slowest))
    console.print(table)
    console.print(
        f"{found.sent:,} requests, {found.answered:,} answered by both: {found.apart:,} "
        f"differently ({found.share:.2%})",
        highlight=False,
    )
    for before, after, count in found.pairs[:_LISTED]:
        console.print(f"  {count:6,}  {escape(before)} → {escape(after)}", highlight=False)


def _share(text: str) -> float:
    if not 0 <= (number := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, got {text}")
    return number


def _options() -> argparse.ArgumentParser:
    found = parser(
        "shadow",
        __doc__ or "",
        "--env prod --candidate 13",
        "--env prod --candidate 13 --requests sampled.jsonl --share 0.1 --rate 20",
    )
    found.add_argument("--candidate", required=True, metavar="VERSION", help="published version")
    found.add_argument(
        "--requests", metavar="FILE", help="JSON lines, - for standard input (default: golden set)"
    )
    found.add_argument("--golden", metavar="FILE", help="golden set (default: the bundled one)")
    found.add_argument("--share", type=_share, default=1.0, help="of the requests (%(default)s)")
    found.add_argument(
        "--rate", type=positive, default=10.0, help="requests a second (%(default)s)"
    )
    found.add_argument(
        "--wait",
        type=positive,
        default=60.0,
        metavar="S",
        help="for the log (%(default)s)",
    )
    found.add_argument(
        "--most", type=_share, default=1.0, metavar="SHARE", help="of answers that may differ"
    )
    return found


Lines = Callable[[tuple[float, float]], Iterable[tuple[str, str]]]  # of the log, within a window


@dataclass
class ShadowResponse:
    """The response of a version to one request; None where it is not in the log yet."""

    label: str | None = None
    confidence: float | None = None
    seconds: float | None = None
    failed: bool = False

    @property
    def is_known(self) -> bool:
        return self.failed or self.label is not None

    def take(self, line: Mapping[str, Any]) -> None:
        """Adds what a line of metrics says."""
        if DURATION in line:
            self.seconds = float(line[DURATION])
            self.failed = not str(line.get("http.response.status_code", "")).startswith("2")
        if PREDICTIONS in line:
            self.label = str(line.get("class"))
        if CONFIDENCE in line:
            self.confidence = float(line[CONFIDENCE])


@dataclass
class Pair:
    """One request as both versions answered it."""

    stable: ShadowResponse = field(default_factory=ShadowResponse)
    candidate: ShadowResponse = field(default_factory=ShadowResponse)

    @property
    def is_known(self) -> bool:
        return self.stable.is_known and self.candidate.is_known


@dataclass(frozen=True)
class Disagreement:
    """How two versions differ on the same requests.

    Attributes:
        sent, answered: requests; answered by both, well or badly.
        apart: requests to which both gave a class, not the same.
        pairs: how often which class became which, where they differ, the most frequent first.
        failed: of each version.
        confidence: mean, of each version.
        slowest: p99 of the time in seconds, of each version.
    """

    sent: int
    answered: int
    agreed: int
    apart: int
    pairs: tuple[tuple[str, str, int], ...]
    failed: tuple[int, int]
    confidence: tuple[float, float]
    slowest: tuple[float, float]

    @property
    def share(self) -> float:
        """The share among the requests that both versions classified."""
        return self.apart / max(1, self.apart + self.agreed)


def sampled(images: Iterable[bytes], share: float) -> Iterator[bytes]:
    """A share of the requests, chosen by a hash of their content, so the same in every run."""
    limit = round(share * 2**32)
    for image in images:
        if int.from_bytes(hashlib.sha256(image).digest()[:4], "big") < limit:
            yield image


def shadow(
    function: LambdaFunction,
    stable: str,
    candidate: str,
    images: Iterable[bytes],
    rate: float,
    lines: Lines,
    clock: Clock,
    wait_s: float,
    progress: Callable[[str], None],
) -> Disagreement:
    """Sends every image to both versions, `rate` a second, and reads what they answered.

    Nothing of it is in a caller's path. Requests come from a file or a stream that something else
    has written (a sampler at the edge, a replayed log, the golden set), never from the function
    itself, whose calls would wait for it. Each copy is left in Lambda's queue
    (InvocationType=Event) for a version by its number, so that callers of the alias share nothing
    with it but the function's reserved concurrency; the rate keeps that small. The answer of an
    asynchronous call goes nowhere, but its metrics go into the log, with the trace id that was
    sent along: class, confidence, time.

    Args:
        wait_s: how long the last answers may take to be in the log.
    """
    began = clock.now()
    pairs: list[Pair] = []
    places: dict[str, ShadowResponse] = {}
    for image in images:
        pair = Pair()
        for version, answered in ((stable, pair.stable), (candidate, pair.candidate)):
            trace = trace_id(SHADOW)
            places[trace] = answered
            function.send(version, predict_event(image, trace))
        pairs.append(pair)
        progress(f"{len(pairs):,} requests sent")
        clock.sleep(max(0.0, began + len(pairs) / rate - clock.now()))
    deadline = clock.now() + wait_s
    while pairs:
        for _, message in lines((began, clock.now() + 1)):
            line = embedded(message)
            if line and (found := places.get(str(line.get("trace_id")))):
                found.take(line)
        known = sum(pair.is_known for pair in pairs)
        progress(f"{known:,} of {len(pairs):,} answered by both")
        if known == len(pairs) or clock.now() > deadline:
            break
        clock.sleep(min(2.0, wait_s / 5))
    return compare(pairs)


def compare(pairs: list[Pair]) -> Disagreement:
    """The report on all pairs."""
    known = [pair for pair in pairs if pair.is_known]
    both = [pair for pair in known if not (pair.stable.failed or pair.candidate.failed)]
    changes = Counter(
        (str(pair.stable.label), str(pair.candidate.label))
        for pair in both
        if pair.stable.label != pair.candidate.label
    )
    arms = [[pair.stable for pair in known], [pair.candidate for pair in known]]
    failed, confidence, slowest = (
        (measure(arms[0]), measure(arms[1])) for measure in (_failed, _confidence, _slowest)
    )
    return Disagreement(
        sent=len(pairs),
        answered=len(known),
        agreed=len(both) - changes.total(),
        apart=changes.total(),
        pairs=tuple((a, b, count) for (a, b), count in changes.most_common()),
        failed=(int(failed[0]), int(failed[1])),
        confidence=confidence,
        slowest=slowest,
    )


def _failed(answers: list[ShadowResponse]) -> float:
    return sum(answer.failed for answer in answers)


def _confidence(answers: list[ShadowResponse]) -> float:
    found = [answer.confidence for answer in answers if answer.confidence is not None]
    return sum(found) / max(1, len(found))


def _slowest(answers: list[ShadowResponse]) -> float:
    found = sorted(answer.seconds for answer in answers if answer.seconds is not None)
    return found[min(len(found) - 1, int(0.99 * len(found)))] if found else 0.0


if __name__ == "__main__":
    entry(main)
