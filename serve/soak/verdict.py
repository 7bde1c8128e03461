"""Whether the service held: each of these must."""

from collections.abc import Sequence
from dataclasses import dataclass

from serve.soak.resources import Sample, growth
from serve.soak.traffic import Tally

WARM_AFTER = 10_000  # requests; until then buffers and thread stacks come up
MEMORY_MB = 200.0  # of one process
_GROWTH_MB = 4.0  # of all processes; one leaked answer a request is 0.4 GB in a million
_FEW = 8  # samples say nothing of a slope
MISTAKES = ("server error", "wrong status", "wrong answer", "no answer")


@dataclass(frozen=True)
class Check:
    """One thing that had to hold."""

    name: str
    found: str
    expected: str
    holds: bool


def judge(
    tally: Tally, samples: Sequence[Sample], before: Sample, after: Sample, errors: int
) -> list[Check]:
    """All checks; those of growth only where the run was long enough for one.

    Args:
        before: the warm server before the first caller came.
        after: when the last one had left.
        errors: lines that the server wrote to its log meanwhile.
    """
    checks = [
        Check(name, str(count), "0", count == 0)
        for name in MISTAKES
        for count in [tally.mistakes.get(name, 0)]
    ]
    checks.append(Check("lines in the log", str(errors), "0", errors == 0))
    left = sum(after.open_files.values()) - sum(before.open_files.values())
    checks.append(Check("files left open", str(left), "0", left <= 0))
    most = max(max(sample.resident_mb.values()) for sample in (*samples, after))
    expected = f"at most {MEMORY_MB:.0f} MB"
    checks.append(Check("memory of a process", f"{most:.0f} MB", expected, most <= MEMORY_MB))
    replaced = set(before.resident_mb) - set(after.resident_mb)
    checks.append(Check("processes that died", str(len(replaced)), "0", not replaced))
    warm = [sample for sample in samples if sample.requests >= WARM_AFTER]
    if len(warm) >= _FEW:
        checks.append(_growth(warm))
    return checks


def _growth(warm: Sequence[Sample]) -> Check:
    # Not memory_mb: what is shared weighs more as soon as a stranger who shares it too has ended.
    held = [sum(one.resident_mb.values()) for one in warm]
    grown = growth([one.requests for one in warm], held)
    over = warm[-1].requests - warm[0].requests
    found = f"{grown:+.1f} MB over {over:,} requests"
    return Check("growth when warm", found, f"at most {_GROWTH_MB:.0f} MB", grown <= _GROWTH_MB)
