"""A canary between two services: what callers saw of both, golden images and live labels, judged by
the release's own verdict."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from infra.release.evidence.collector import Buckets, VersionCounts, read_buckets
from infra.release.evidence.labelled import LabelReader, since
from infra.release.evidence.log_lines import secrets_in
from infra.release.verdict.engine import Verdict, judge
from infra.release.verdict.evidence import Arm, Evidence, Labelled, Replay, Window
from infra.release.verdict.policy import profile_policy
from infra.twin.loop.callers import Callers, LabelledResponse, Shot
from infra.twin.loop.service import Running, answers

# A model that was made for what has changed answers otherwise on purpose, so how much only informs.
# Memory and cold starts are what Lambda tells of.
_INFORMING = ("disagreement", "class mix", "confidence")
_REQUIRED = ("errors", "refusals", "latency", "accuracy", "log content", "labels")
POLICY = profile_policy(
    "retrained",
    {
        "required": _REQUIRED,
        "informing": _INFORMING,
        "missed_harm_rate": 0.01,
        "harmful_error_excess": 0.01,
        "harmful_latency_ratio": 4.0,  # two cores do all of this at once
    },
)
_WEIGHTS, _LOOK_S, _STEP_S, _MOST_S, _GOLDEN = (0.2, 0.5), 5.0, 10.0, 120.0, 500


@dataclass
class Canary:
    """A candidate beside stable; the traffic is back with stable unless it is promoted."""

    stable: Running
    candidate: Running
    golden: Sequence[Shot]
    captures: Path
    say: Callable[[str], object]
    buckets: Buckets = field(default_factory=read_buckets)
    windows: list[Window] = field(default_factory=list)

    def run(self, callers: Callers) -> Verdict:
        """Shifts traffic until there is a verdict, and to whom it then belongs."""
        began = seen = time.time()
        lines = 0
        while True:
            weight = _WEIGHTS[min(int((time.time() - began) / _STEP_S), len(_WEIGHTS) - 1)]
            callers.route((self.stable, 1 - weight), (self.candidate, weight))
            time.sleep(_LOOK_S)
            until = time.time()
            answered = [one for one in list(callers.answers) if seen <= one.time_s < until]
            searched = self.candidate.lines[lines:]
            lines += len(searched)
            self._look(answered, searched, began, until)
            seen = until
            verdict = self._verdict()
            asked = sum(window.candidate.requests for window in self.windows)
            self.say(f"look {len(self.windows)}: {asked:,} requests so far, {verdict.decision}")
            if verdict.decision == "roll back" or until - began > _MOST_S:
                callers.route((self.stable, 1.0))
                return verdict
            if verdict.decision == "promote" and until - began > _STEP_S * len(_WEIGHTS):
                callers.route((self.candidate, 1.0))
                return verdict

    @property
    def labelled(self) -> tuple[Labelled, Labelled]:
        """All labels of the release, of stable's answers and of the candidate's."""
        stable, candidate = (
            Labelled(sum(one.right for one in arm), sum(one.wrong for one in arm))
            for arm in self._labels()
        )
        return stable, candidate

    def _labels(self) -> tuple[list[Labelled], list[Labelled]]:
        """The labels of each window: those of stable and those of the candidate."""
        return (
            [window.labelled_stable for window in self.windows],
            [window.labelled_candidate for window in self.windows],
        )

    def _verdict(self) -> Verdict:
        names = self.stable.model[:12], self.candidate.model[:12]
        windows = tuple(self.windows)
        return judge(Evidence(*names, self.buckets.latency_s, windows, labelled=True), POLICY)

    def _look(
        self, answered: Sequence[LabelledResponse], lines: Sequence[str], began: float, until: float
    ) -> None:
        arms = [self._arm(answered, running) for running in (self.stable, self.candidate)]
        found, secrets = secrets_in(lines)
        arms[1] = replace(arms[1], lines=found + 1, secrets=dict(secrets))
        reader = LabelReader(str(self.captures), 1.0)
        classes = {one.model: one.classes for one in (self.stable, self.candidate)}
        totals = reader.totals(classes, began, until)
        stable, candidate = self._labels()
        self.windows.append(
            Window(
                arms[0],
                arms[1],
                self._replay(),
                labelled_stable=since(totals[self.stable.model], stable),
                labelled_candidate=since(totals[self.candidate.model], candidate),
            )
        )

    def _arm(self, answered: Sequence[LabelledResponse], running: Running) -> Arm:
        counts = VersionCounts(self.buckets)
        for one in answered:
            if one.model == running.model:
                counts.answered(str(one.status or 500), one.seconds)
                if one.status == 200:
                    counts.classes[one.label] += 1
                    counts.confidence[bisect_left(self.buckets.confidence, one.confidence)] += 1
        return counts.arm(0, self.stable.classes)

    def _replay(self) -> Replay:
        start = sum(window.golden.images for window in self.windows)
        part = self.golden[start : start + _GOLDEN]
        images = [shot.data for shot in part]
        mine, new = answers(self.stable, images), answers(self.candidate, images)
        kinds = [0] * 5
        for shot, a, b in zip(part, mine, new, strict=True):
            right = (a == shot.label, b == shot.label)
            kind = {(True, True): 0, (True, False): 1, (False, True): 2}.get(right)
            kinds[(3 if a == b else 4) if kind is None else kind] += 1
        return Replay(*kinds)
