"""infra/release/verdict: what whoever is on call reads, figure by figure."""

from collections.abc import Sequence
from io import StringIO

import pytest
from msgspec.structs import replace
from rich.console import Console

from infra.release.verdict.engine import Check, Figure, decide, judge
from infra.release.verdict.evidence import Arm, Evidence, Replay, Window
from infra.release.verdict.judge import show
from infra.release.verdict.policy import DEFAULT_POLICY, Policy
from tests.infra.release.verdict.made import arm, evidence, good

BAD = Window(
    arm(4000, 4),
    replace(arm(1000, 30, slow=40), classes=(900, 100), confidence=(900, 100)),
    Replay(800, 100, 50, 20, 30),
)
LITTLE = evidence(Window(arm(400, 2), arm(100, 1), Replay(20, 1, 1, 1, 1)))
GAINED = evidence(*[Window(arm(4000, 4), arm(1000, 1), Replay(900, 20, 35, 25, 20))] * 2)
DIFFERENT = evidence(Window(Arm(), Arm(), Replay(50, 25, 25)))


def checks(release: Evidence, policy: Policy = DEFAULT_POLICY) -> dict[str, Check]:
    return {check.name: check for check in judge(release, policy).checks}


@pytest.mark.parametrize(
    ("name", "release", "words"),
    [
        (
            "errors",
            evidence(),
            "0 of 0 (0.00%) candidate requests failed, 0 of 0 (0.00%) of stable: no harm shown, "
            "but the candidate may fail up to 100.00% (0.50% is allowed)",
        ),
        (
            "errors",
            good(6),
            "6 of 6,000 (0.10%) candidate requests failed, 24 of 24,000 (0.10%) of stable: the "
            "candidate fails at most 0.41%, and 0.53% is allowed",
        ),
        (
            "errors",
            evidence(*good(1).windows, BAD),
            "31 of 2,000 (1.55%) candidate requests failed, 8 of 8,000 (0.10%) of stable: 1.45% "
            "more than stable at the same times, which chance does in less than one release of "
            "1,000,000",
        ),
        (
            "latency",
            evidence(),
            "no latencies of both versions: no harm shown, but too little to be sure; nothing to "
            "compare with",
        ),
        (
            "latency",
            good(1),
            "p50 7.51 ms (stable 7.51 ms), p99 9.97 ms (stable 9.97 ms): p50 may be up to 10 ms, "
            "p99 up to 25 ms, and that is kept",
        ),
        (
            "latency",
            LITTLE,
            "p50 7.5 ms (stable 7.51 ms), p99 9.95 ms (stable 9.96 ms): no harm shown, but too "
            "little to be sure; p50 may be up to 10 ms, p99 up to 25 ms",
        ),
        (
            "latency",
            evidence(*good(1).windows, BAD),
            "p50 7.56 ms (stable 7.51 ms), p99 75.4 ms (stable 9.97 ms): 7.6 times stable's at "
            "the same times, and a difference that chance does in less than one release of "
            "1,000,000",
        ),
        (
            "accuracy",
            evidence(),
            "no golden image yet; the truth lies between 100.00 points gained and 100.00 points "
            "lost, so a loss of 1 points is not ruled out",
        ),
        (
            "accuracy",
            GAINED,
            "of 2,000 golden images the candidate loses 40 that stable gets right, and gains 70: "
            "1.50 points gained; a loss of 1 points is ruled out",
        ),
        (
            "accuracy",
            evidence(*good(1).windows, BAD),
            "of 2,000 golden images the candidate loses 100 that stable gets right, and gains 50: "
            "2.50 points lost (between 0.07 points gained and 5.25 points lost), which chance does "
            "in less than one release of 643",
        ),
        (
            "disagreement",
            LITTLE,
            "3 of 24 (12.50%) golden images are answered differently: whether that is below 15% "
            "is not certain yet",
        ),
        (
            "disagreement",
            GAINED,
            "150 of 2,000 (7.50%) golden images are answered differently: 15% or more is ruled out",
        ),
        (
            "disagreement",
            DIFFERENT,
            "50 of 100 (50.00%) golden images are answered differently: more than 15% is proven, "
            "which chance does in less than one release of 1,000,000",
        ),
        ("class mix", LITTLE, "99 predictions of both versions are too few to compare"),
        (
            "class mix",
            good(1),
            "PSI 0.000 between the versions' predictions at the same times: within 0.25",
        ),
        (
            "confidence",
            evidence(*good(1).windows, BAD),
            "KS 0.325 between the versions' predictions at the same times: above 0.200, which "
            "chance does not explain",
        ),
    ],
)
def test_a_check_says_what_was_seen_and_what_follows(
    name: str, release: Evidence, words: str
) -> None:
    assert checks(release)[name].words == words


def test_a_difference_that_may_be_chance_is_called_that() -> None:
    few, other = replace(arm(40), classes=(20, 20)), replace(arm(40), classes=(8, 32))
    found = checks(evidence(Window(few, other)), Policy(fewest_images=30))["class mix"]
    assert found.state == "unsure"
    assert found.words.startswith("PSI 0.371 ")
    assert ": above 0.25, but up to " in found.words
    assert found.needed == "more predictions of both versions"


@pytest.mark.parametrize(
    ("release", "needed"),
    [
        (evidence(), [("errors", 2000, "candidate requests"), ("accuracy", 950, "golden images")]),
        (good(1), [("errors", 3300, "candidate requests")]),
        (
            LITTLE,
            [
                ("latency", 850, "candidate requests"),
                ("accuracy", 16_000, "golden images"),
                ("disagreement", 3600, "golden images"),
            ],
        ),
    ],
)
def test_what_is_missing_is_said_as_a_number(
    release: Evidence, needed: Sequence[tuple[str, int, str]]
) -> None:
    for name, more, unit in needed:
        said = f"about {more:,} more {unit}, if they go like those so far"
        assert checks(release)[name].needed == said


def test_what_does_not_look_safe_cannot_be_estimated() -> None:
    assert "cannot be estimated yet" in checks(LITTLE)["errors"].needed
    beyond = [Window(Arm(9, latency=(0, 0, 0, 0, 0, 9)), Arm(9, latency=(0, 0, 0, 0, 0, 9)))]
    assert checks(evidence(*beyond))["latency"].needed == (
        "latencies of both versions, inside the buckets"
    )


@pytest.mark.parametrize("windows", [good(1).windows, LITTLE.windows, (BAD,), GAINED.windows])
def test_a_window_in_which_nothing_happened_changes_no_word(windows: tuple[Window, ...]) -> None:
    """All words are of the release so far, whichever window something happened in."""
    nothing = Window(Arm(), Arm())
    before = judge(evidence(*windows)).checks[:4]
    assert judge(evidence(nothing, *windows)).checks[:4] == before
    assert judge(evidence(*windows, nothing)).checks[:4] == before
    slow = Arm(9, latency=(0, 0, 0, 0, 0, 9))
    beyond = checks(evidence(nothing, Window(slow, slow)))["latency"]
    assert beyond.words.endswith("stable's lies beyond the last bucket, 100 ms")


def test_what_is_known_needs_nothing() -> None:
    found = checks(good(6))
    names = ("errors", "latency", "accuracy", "disagreement")
    assert [found[name].needed for name in names] == [""] * 4


def test_a_check_turns_on_figures_and_their_limits() -> None:
    policy = Policy(false_alarm_rate=0.02, missed_harm_rate=0.05)
    found = checks(evidence(*good(1).windows, BAD), policy)
    assert [figure.name for figure in found["errors"].figures] == [
        "odds of harm",
        "odds of safety",
        "difference",
    ]
    limits = {name: [figure.limit for figure in check.figures] for name, check in found.items()}
    assert limits["errors"] == [pytest.approx(1 / 0.003), 40, 0.001]
    assert limits["latency"] == [500, 20, 1.25]
    assert limits["accuracy"] == [125, 20, 0]
    assert limits["disagreement"] == [500, 20, 0.15]
    assert found["errors"].figures[0].value == 1e12
    assert found["errors"].figures[2].value == pytest.approx(0.0145)
    [distance] = found["confidence"].figures
    assert distance == Figure("KS", distance.value, 0.2)
    assert distance.value == pytest.approx(0.3248, abs=1e-4)


def test_the_table_shows_every_check_and_what_it_needs() -> None:
    console = Console(file=StringIO(), width=200)
    show(judge(LITTLE), LITTLE, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0].strip() == "Candidate 13 beside stable 12: 1 windows, 100 candidate requests"
    text = "\n".join(lines)
    assert "odds of harm 0.165 / 1,000" in text
    assert "odds of safety 1.39 / 1,000" in text
    assert "needs about 850 more candidate requests" in text
    assert lines[-8] == "HOLD"
    assert (
        lines[-4]
        == "  accuracy: needs about 16,000 more golden images, if they go like those so far"
    )


def test_a_table_of_what_is_safe_needs_nothing() -> None:
    console = Console(file=StringIO(), width=200)
    show(judge(good(6)), good(6), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.splitlines()[-11] == "PROMOTE"
    assert "needs" not in text
    assert "odds of safety 1e+12 / 1,000" in text


def test_reasons_stand_on_a_line_each_and_as_they_are() -> None:
    long = Check("errors", "harmful", "see [red]the log[/red] " + "and so on " * 20)
    console = Console(file=StringIO(), width=60)
    show(decide((long,), Policy(required=("errors",))), good(1), console)
    last = console.file.getvalue().splitlines()[-1]  # type: ignore[attr-defined]
    assert last == f"  errors: {long.words}"
