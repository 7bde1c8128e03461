"""Parses Lambda's own log lines (REPORT), and searches log lines for secrets and image data."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from infra.release.verdict.evidence import Reports

# After this many calls an environment has loaded what it needs: a growing peak is a leak, mostly.
_SETTLED_CALLS = 20
_REPORT = re.compile(
    r"^REPORT RequestId: .*?\bMemory Size: (?P<limit>\d+) MB\s+Max Memory Used: (?P<peak>\d+) MB"
    r"(?:.*?\b(?:Init|Restore) Duration: (?P<start>[\d.]+) ms)?"
)


@dataclass
class _Counts:
    calls: int = 0
    settled: int = 0
    grew: int = 0
    grown_mb: int = 0
    peak: float = 0.0
    starts: list[int] = field(default_factory=list)


@dataclass
class _Environment:
    calls: int = 0
    peak_mb: int = 0


class Environments:
    """Execution environments of all versions, each known by its stream of the log.

    They are remembered from window to window. A run that resumes another run's release sees each
    as new, which costs some evidence and invents none.
    """

    def __init__(self, edges_s: Sequence[float]) -> None:
        """Cold starts are counted in buckets with these edges."""
        self._edges_s = edges_s
        self._seen: dict[str, _Environment] = {}

    def reports(
        self, events: Iterable[tuple[str, str]], earlier: Iterable[tuple[str, str]] = ()
    ) -> Reports:
        """Counts the REPORT lines of a version's calls, (stream, message) in order of time.

        Args:
            earlier: lines from before the window, of which only cold starts count.
        """
        counts = _Counts(starts=[0] * (len(self._edges_s) + 1))
        for stream, message in events:
            if match := _REPORT.match(message):
                self._call(counts, stream, int(match["peak"]), int(match["limit"]))
                self._start(counts, match["start"])
        for _, message in earlier:
            if match := _REPORT.match(message):
                self._start(counts, match["start"])
        return Reports(
            counts.calls,
            counts.settled,
            counts.grew,
            counts.grown_mb,
            counts.peak,
            tuple(counts.starts) if any(counts.starts) else (),
        )

    def _call(self, counts: _Counts, stream: str, peak_mb: int, limit_mb: int) -> None:
        environment = self._seen.setdefault(stream, _Environment())
        counts.calls += 1
        counts.peak = max(counts.peak, peak_mb / max(limit_mb, 1))
        if environment.calls >= _SETTLED_CALLS:
            grown = max(0, peak_mb - environment.peak_mb)
            counts.settled += 1
            counts.grew += grown > 0
            counts.grown_mb += grown
        environment.calls += 1
        environment.peak_mb = max(environment.peak_mb, peak_mb)

    def _start(self, counts: _Counts, milliseconds: str | None) -> None:
        if milliseconds is not None:
            counts.starts[bisect_left(self._edges_s, float(milliseconds) / 1000)] += 1


# Kinds of what must be in no log. Forms, not entropy: a trace id is as random as a key.
_SECRETS = {
    "an AWS key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|(?i:aws_?(?:secret_?access_?key|session_?token))\W{1,8}[A-Za-z0-9/+=]{40}",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a token": r"(?i:\bbearer|\bauthorization\W{1,8}(?:basic|bearer))\s+[\w.~+/-]{12,}"
    r"|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}|\bgh[pousr]_\w{36}|\bxox[abprs]-[\w-]{10,}",
    "an API key": r"\bkiln_[\w-]{40,}|(?i:\b(?:x-)?api[_-]?key)\W{1,8}[\w-]{16,}",
}
_IMAGES = {
    "image data": r"(?:/9j/|iVBORw0KGgo|UklGR)[A-Za-z0-9+/]{16,}"  # JPEG, PNG, WebP in base64
    r"|[A-Za-z0-9+/]{200,}|[\w-]{200,}"  # anything long in base64 or hexadecimal digits
    r"|(?:\\x89|\x89|\\u0089|\ufffd)PNG(?:\\r|\r)|\\xff\\xd8\\xff|\xff\xd8\xff"
    r"|RIFF.{4,16}WEBPVP8|JFIF(?:\\x00|\\u0000|\x00)"
    r"|(?:\b\d{1,3},\s*){150,}",  # pixels as a list
}
_FORMS = {kind: re.compile(form) for kind, form in (_SECRETS | _IMAGES).items()}


def secrets_in(messages: Iterable[str]) -> tuple[int, Counter[str]]:
    """Number of lines, and of lines with a secret or image data by kind; never their text."""
    lines, found = 0, Counter[str]()
    for message in messages:
        lines += 1
        found.update(kind for kind, form in _FORMS.items() if form.search(message))
    return lines, found
