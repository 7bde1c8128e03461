"""infra/release/verdict: what is decided on which evidence."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from infra.release.verdict.engine import Check, judge
from infra.release.verdict.evidence import Arm, Evidence, Labelled, Replay, Reports, Window
from infra.release.verdict.policy import CHECKS, DEFAULT_POLICY, PROFILES, Policy
from tests.infra.release.verdict.made import SAME_PREDICTIONS, arm, evidence, good, releases

ORDER = {"roll back": 0, "hold": 1, "promote": 2}


def check(release: Evidence, name: str, policy: Policy = DEFAULT_POLICY) -> Check:
    return next(check for check in judge(release, policy).checks if check.name == name)


def with_candidate(release: Evidence, change: Callable[[Window], Window]) -> Evidence:
    last = change(release.windows[-1])
    return replace(release, windows=(*release.windows[:-1], last))


@pytest.mark.parametrize("windows", [0, 1])
def test_no_evidence_is_no_reason_to_do_anything(windows: int) -> None:
    verdict = judge(evidence(*[Window(Arm(), Arm())] * windows))
    assert verdict.decision == "hold"
    assert [check.state for check in verdict.checks] == ["unsure"] * len(verdict.checks)
    assert [check.name for check in verdict.checks] == [*CHECKS[:-1]]  # labels are not looked for
    assert len(verdict.reasons) == len(verdict.checks)


def test_a_candidate_like_stable_is_promoted_once_that_is_certain() -> None:
    assert judge(good(windows=1)).decision == "hold"
    verdict = judge(good(windows=6))
    assert verdict.decision == "promote", verdict.reasons
    assert {check.state for check in verdict.checks} == {"safe"}


def labelled(release: Evidence, stable: Labelled, candidate: Labelled) -> Evidence:
    """The release with these labels in each window."""
    windows = [
        replace(window, labelled_stable=stable, labelled_candidate=candidate)
        for window in release.windows
    ]
    return replace(release, windows=tuple(windows), labelled=True)


def test_more_wrong_answers_by_their_labels_roll_back_what_golden_images_find_good() -> None:
    verdict = judge(labelled(good(), Labelled(90, 10), Labelled(60, 40)))
    assert verdict.decision == "roll back"
    assert [one.name for one in verdict.checks if one.state == "harmful"] == ["labels"]


@pytest.mark.parametrize(
    ("stable", "candidate"),
    [
        (Labelled(), Labelled()),  # looked for, and none has come
        (Labelled(90, 10), Labelled(90, 10)),
        (Labelled(60, 40), Labelled(90, 10)),  # the camera changed, and the candidate knows it
        (Labelled(90, 10), Labelled(4, 1)),
        (Labelled(), Labelled(0, 100)),  # nothing to compare with
    ],
)
def test_labels_without_harm_let_a_good_release_go_on(
    stable: Labelled, candidate: Labelled
) -> None:
    verdict = judge(labelled(good(), stable, candidate))
    assert verdict.decision == "promote", verdict.reasons
    assert verdict.checks[-1].name == "labels"


@given(releases())
@settings(max_examples=50, deadline=None)
def test_without_labels_nothing_is_other_than_before(release: Evidence) -> None:
    found, same = judge(release), judge(labelled(release, Labelled(), Labelled()))
    assert found.checks[:3] == same.checks[:3]
    assert len(same.checks) == len(found.checks) + 1
    assert same.checks[-1].state == "safe"
    ignored = replace(labelled(release, Labelled(5), Labelled(0, 5)), labelled=False)
    assert judge(ignored) == found


@pytest.mark.parametrize(
    ("name", "candidate", "golden"),
    [
        ("errors", arm(1000, 30), SAME_PREDICTIONS),
        ("errors", arm(50, 50), SAME_PREDICTIONS),
        ("latency", arm(1000, 1, slow=40), SAME_PREDICTIONS),
        ("accuracy", arm(1000, 1), Replay(910, 20, 0, 70, 0)),
        ("disagreement", arm(1000, 1), Replay(300, 300, 300, 50, 50)),
        ("memory", replace(arm(1000), reports=Reports(1000, 900, 900, 3600)), SAME_PREDICTIONS),
        (
            "cold start",
            replace(arm(1000), reports=Reports(1000, 900, 0, starts=(0, 0, 0, 0, 0, 200))),
            SAME_PREDICTIONS,
        ),
        ("log content", replace(arm(1000), secrets={"a token": 1}), SAME_PREDICTIONS),
        ("class mix", replace(arm(1000), classes=(3000, 0)), SAME_PREDICTIONS),
        ("confidence", replace(arm(1000), confidence=(900, 100)), SAME_PREDICTIONS),
    ],
)
def test_each_harm_is_found_by_the_check_that_is_named_after_it(
    name: str, candidate: Arm, golden: Replay
) -> None:
    release = evidence(*good(2).windows, Window(arm(4000, 4), candidate, golden))
    verdict = judge(release)
    assert verdict.decision == "roll back"
    assert [reason.split(":")[0] for reason in verdict.reasons] == [name]


def test_an_outage_of_both_is_not_held_against_the_candidate() -> None:
    calm = Window(arm(9500, 9), arm(500, 0), SAME_PREDICTIONS)
    outage = Window(arm(5000, 500, slow=900), arm(5000, 510, slow=900), SAME_PREDICTIONS)
    checks = {check.name: check for check in judge(evidence(calm, outage)).checks}
    assert checks["errors"].state != "harmful"
    assert checks["latency"].state != "harmful"
    # Without windows the candidate would have failed in 9 % of its requests and stable in 4 %.
    once = Window(arm(14_500, 509, slow=900), arm(5500, 510, slow=900), SAME_PREDICTIONS)
    assert judge(evidence(once)).decision == "roll back"


CALLS = Arm(1000, latency=(0, 990, 10, 0, 0, 0))  # of a replay


def without(release: Evidence, arm: str, **fields: object) -> Evidence:
    """The same, with golden calls, and without what the version of one arm does not report."""
    changed = [
        replace(
            window,
            replay_stable=CALLS,
            replay_candidate=CALLS,
            **{arm: replace(getattr(window, arm), **fields)},
        )
        for window in release.windows
    ]
    return replace(release, windows=tuple(changed))


UNREPORTED = [
    ({"confidence": ()}, {"confidence"}),
    ({"classes": ()}, {"class mix", "confidence"}),
    ({"requests": 0, "errors": 0, "latency": (), "classes": (), "confidence": ()}, set(CHECKS)),
]


@pytest.mark.parametrize(("fields", "names"), UNREPORTED)
def test_what_an_older_stable_does_not_report_holds_no_good_candidate(
    fields: dict[str, object], names: set[str]
) -> None:
    release = without(good(10), "stable", **fields)
    assert judge(release).decision == "promote", judge(release).reasons
    failing = with_candidate(release, lambda window: replace(window, candidate=arm(1000, 400)))
    assert judge(failing).decision != "promote"


@pytest.mark.parametrize(("fields", "names"), UNREPORTED[:2])
def test_what_a_candidate_no_longer_reports_is_asked_for(
    fields: dict[str, object], names: set[str]
) -> None:
    verdict = judge(without(good(10), "candidate", **fields))
    assert verdict.decision == "hold"
    assert {one.name for one in verdict.checks if one.state == "unsure"} == names


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.09])
def test_one_caller_all_of_whose_requests_fail_holds_no_good_candidate(rate: float) -> None:
    """It meets both versions; and twice as many failures are never ruled out by mistake."""
    stable, candidate, worse = (
        arm(requests, round(rate * requests * factor) + extra)
        for requests, factor, extra in ((4000, 1, 0), (1000, 1, 0), (1000, 2, 5))
    )
    windows = [Window(stable, candidate, SAME_PREDICTIONS)] * 18
    assert judge(evidence(*windows)).decision == "promote"
    windows = [Window(stable, worse, SAME_PREDICTIONS)] * 18
    assert judge(evidence(*windows)).decision != "promote"


def callers(count: int, harm: str = "") -> Arm:
    """A version's few callers of a window, all of whom meet the same."""
    own = Arm(count, reports=Reports(1000, 1000, 2, 2, 0.4), lines=9)
    changes: dict[str, dict[str, object]] = {
        "": {"latency": (0, count, 0, 0, 0, 0)},
        "401": {"refusals": {"401": count}},
        "500": {"errors": count},
        "slow": {"latency": (0, 0, 0, 0, count, 0)},
    }
    return replace(own, **changes[harm])


def quiet(met: int, harm: str, of_stable: str = "") -> Evidence:
    """A release at one request a minute: most windows show one version alone. The replay is good.

    Args:
        met: callers of the candidate.
        of_stable: what stable's meet.
    """
    usual = harm if harm == "401" else of_stable  # a few of stable's callers make mistakes, too
    stable = [callers(2 * (n % 4 > 0), usual if n == 1 else of_stable) for n in range(20)]
    candidate = [callers(n % 4 == 0 and n < 4 * met, harm) for n in range(20)]
    windows = zip(stable, candidate, strict=True)
    return evidence(*(Window(*arms, SAME_PREDICTIONS, CALLS, CALLS) for arms in windows))


@pytest.mark.parametrize("met", [1, 2, 5])
@pytest.mark.parametrize("harm", ["401", "500", "slow"])
def test_what_every_one_of_a_few_callers_meets_is_not_covered_by_good_replays(
    met: int, harm: str
) -> None:
    """As where keys were changed, or what callers come by is slow."""
    policy = PROFILES["low traffic"]
    assert judge(quiet(met, ""), policy).decision == "promote"
    assert judge(quiet(met, harm), policy).decision == "hold"


@pytest.mark.parametrize("harm", ["401", "500", "slow"])
def test_what_callers_of_both_versions_meet_holds_no_good_candidate(harm: str) -> None:
    assert judge(quiet(5, harm, of_stable=harm), PROFILES["low traffic"]).decision == "promote"


def test_a_few_hundred_callers_may_wait_a_little_longer_if_the_replay_is_good() -> None:
    """A seventh longer is certain, and tolerated; they are too few to rule the double out."""
    own = Reports(1000, 1000, 2, 2, 0.4)
    stable, candidate = (
        Arm(20, latency=counts, reports=own, lines=9)
        for counts in ((0, 19, 1, 0, 0, 0), (0, 16, 4, 0, 0, 0))
    )
    windows = [Window(stable, candidate, SAME_PREDICTIONS, CALLS, CALLS)] * 20
    assert judge(evidence(*windows), PROFILES["low traffic"]).decision == "promote"


SILENT = {"requests": 0, "latency": (), "classes": (), "confidence": ()}


@pytest.mark.parametrize(
    ("crashes", "candidate", "decision"),
    [
        (0, replace(arm(970), requests=1000, refusals={"422": 30}), "promote"),
        (0, replace(arm(700), requests=1000, refusals={"422": 300}), "hold"),
        (9, arm(1000, 1), "promote"),
        (9, arm(1000, 50), "hold"),
    ],
)
def test_beside_a_stable_version_that_logs_nothing_the_candidate_stands_for_itself(
    crashes: int, candidate: Arm, decision: str
) -> None:
    """Lambda counts its crashes alone: as a share of what is known, all its requests failed."""
    silent = SILENT | {"requests": crashes, "errors": crashes}
    windows = [replace(one, candidate=candidate) for one in good(10).windows]
    assert judge(without(evidence(*windows), "stable", **silent)).decision == decision


def test_a_burst_of_failures_of_both_is_no_reason_to_wait_forever() -> None:
    window = Window(arm(4000, 4), arm(1000, 1), SAME_PREDICTIONS)
    burst = Window(arm(8000, 4000), arm(2000, 1010), SAME_PREDICTIONS)
    assert judge(evidence(*[window] * 5, burst, *[window] * 4)).decision == "promote"


def test_a_difference_too_small_to_matter_is_no_harm_however_certain() -> None:
    release = evidence(Window(arm(10_000_000, 1000), arm(10_000_000, 2000), SAME_PREDICTIONS))
    found = check(release, "errors")
    assert found.state == "safe"
    assert found.figures[0].value > found.figures[0].limit


def test_what_is_not_required_may_roll_back_but_need_not_be_known() -> None:
    policy = Policy(required=("errors", "latency"))
    bare = [replace(window, golden=Replay()) for window in good(6).windows]
    assert judge(evidence(*bare)).decision == "hold"
    assert judge(evidence(*bare), policy).decision == "promote"
    worse = replace(bare[0], golden=Replay(only_stable_right=50))
    assert judge(evidence(worse, *bare[1:]), policy).decision == "roll back"


def test_latencies_beyond_the_last_bucket_are_never_called_safe() -> None:
    slow = replace(arm(4000), latency=(0, 0, 0, 0, 0, 4000))
    found = check(evidence(*[Window(slow, slow)] * 5), "latency")
    assert found.state == "unsure"
    assert "beyond the last bucket, 100 ms" in found.words


def test_what_is_said_to_be_needed_is_enough() -> None:
    release = evidence(Window(arm(4000, 4), arm(1000, 1), Replay(93, both_wrong_alike=7)))
    for name, unit in (("errors", "candidate requests"), ("accuracy", "golden images")):
        needed = check(release, name).needed
        assert unit in needed
        more = int(needed.split()[1].replace(",", ""))
        window = release.windows[0]
        seen = window.candidate.requests if name == "errors" else window.golden.images
        times = 1 + 1.1 * more / seen  # said with two digits
        before, after = int(times * 0.8) or 1, int(times + 1)
        assert check(evidence(*[window] * after), name).state == "safe"
        assert check(evidence(*[window] * before), name).state == "unsure"


@given(release=releases())
@settings(max_examples=20, deadline=None)
def test_one_verdict_follows_from_the_checks(release: Evidence) -> None:
    verdict = judge(release)
    states = {check.state for check in verdict.checks}
    expected = "roll back" if "harmful" in states else "hold" if "unsure" in states else "promote"
    assert verdict.decision == expected
    assert verdict.reasons


@given(
    release=releases(), kind=st.sampled_from(["fail", "slow", "lose", "all"]), part=st.floats(0, 1)
)
@settings(max_examples=30, deadline=None)
def test_more_harm_never_makes_a_verdict_kinder(release: Evidence, kind: str, part: float) -> None:
    assume(release.windows)

    def worse(window: Window) -> Window:
        candidate, golden = window.candidate, window.golden
        if kind in ("fail", "all"):
            failed = int(part * sum(candidate.latency[:1]))
            latency = (candidate.latency[0] - failed, *candidate.latency[1:])
            candidate = replace(candidate, errors=candidate.errors + failed, latency=latency)
        if kind == "slow":
            moved = int(part * candidate.latency[1])
            first, usual, *between, last = candidate.latency
            latency = (first, usual - moved, *between, last + moved)
            candidate = replace(candidate, latency=latency)
        if kind in ("lose", "all"):
            moved = int(part * golden.both_right)
            golden = replace(
                golden,
                both_right=golden.both_right - moved,
                only_stable_right=golden.only_stable_right + moved,
            )
        return Window(window.stable, candidate, golden)

    names = {"fail": ["errors"], "slow": ["latency"], "lose": ["accuracy", "disagreement"]}
    before, after = judge(release), judge(with_candidate(release, worse))
    for old, new in zip(before.checks, after.checks, strict=True):
        if old.name in names.get(kind, ["errors", "accuracy"]):
            order = ["harmful", "unsure", "safe"]
            assert order.index(new.state) <= order.index(old.state), (old, new)
    if kind != "all":  # failed answers leave the latencies, and may leave the fast ones alone
        assert kind == "fail" or ORDER[after.decision] <= ORDER[before.decision]


@given(release=releases())
@settings(max_examples=15, deadline=None)
def test_names_of_classes_do_not_matter(release: Evidence) -> None:
    def renamed(one: Arm) -> Arm:
        return replace(one, classes=one.classes[::-1])

    turned = [Window(renamed(w.stable), renamed(w.candidate), w.golden) for w in release.windows]
    one = check(release, "class mix").state
    assert check(evidence(*turned), "class mix").state == one


@given(release=releases())
@settings(max_examples=15, deadline=None)
def test_of_two_versions_at_most_one_is_harmful_to_errors_and_accuracy(release: Evidence) -> None:
    def swapped(window: Window) -> Window:
        golden = replace(
            window.golden,
            only_stable_right=window.golden.only_candidate_right,
            only_candidate_right=window.golden.only_stable_right,
        )
        return Window(window.candidate, window.stable, golden)

    other = evidence(*map(swapped, release.windows))
    for name in ("errors", "accuracy"):
        assert "harmful" not in (check(release, name).state, check(other, name).state) or (
            check(release, name).state != check(other, name).state
        )


def test_the_engine_needs_numpy_msgspec_and_the_contract_alone() -> None:
    script = "import sys; import infra.release.verdict.engine; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    modules = subprocess.run(
        [sys.executable, "-S", "-c", script], env=environment, stdout=subprocess.PIPE, check=True
    ).stdout.split()
    names = {name.decode() for name in modules}
    packages = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    assert packages - {"__main__", "typing_extensions"} == {"infra", "numpy", "common", "msgspec"}
    of_serve = {name for name in names if name.startswith("serve.")}
    assert all(name.startswith("common.model") for name in of_serve)
