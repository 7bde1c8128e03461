"""Evidence for the tests: windows of both arms, as one says them."""

from collections.abc import Sequence

from hypothesis import strategies as st

from infra.release.verdict.evidence import Arm, Evidence, Replay, Reports, Window

EDGES = (0.005, 0.01, 0.025, 0.05, 0.1)
SAME_PREDICTIONS = Replay(both_right=930, both_wrong_alike=70)


def arm(requests: int, errors: int = 0, *, slow: int = 0) -> Arm:
    """A version: answers take 5 to 10 ms, one in 200 up to 25 ms, and `slow` of them 100 ms."""
    answered = requests - errors
    tail = answered // 200
    return Arm(
        requests,
        errors,
        latency=(0, answered - tail - slow, tail, 0, slow, 0),
        classes=(answered - answered // 2, answered // 2),
        confidence=(answered // 4, answered - answered // 4),
        reports=Reports(
            requests,
            requests,
            requests // 500,
            requests // 500,
            0.4,
            (0, 0, requests // 100, 0, 0, 0),
        ),
        lines=requests,
    )


def evidence(*windows: Window) -> Evidence:
    """A release so far."""
    return Evidence("12", "13", EDGES, windows)


def good(windows: int = 6) -> Evidence:
    """A candidate like stable, with a fifth of the traffic."""
    one = Window(arm(4000, 4), arm(1000, 1), SAME_PREDICTIONS)
    return evidence(*[one] * windows)


def counts(length: int, most: int = 400) -> st.SearchStrategy[tuple[int, ...]]:
    """So many counts."""
    return st.lists(st.integers(0, most), min_size=length, max_size=length).map(tuple)


@st.composite
def arms(draw: st.DrawFn) -> Arm:
    """Any version."""
    latency, errors = draw(counts(len(EDGES) + 1)), draw(st.integers(0, 30))
    return Arm(sum(latency) + errors, errors, latency, draw(counts(3)), draw(counts(4)))


replays = st.builds(Replay, *[st.integers(0, 500)] * 5)
windows = st.builds(Window, arms(), arms(), replays)


def releases(most: int = 4) -> st.SearchStrategy[Evidence]:
    """Any release."""
    return st.lists(windows, max_size=most).map(_of)


def _of(some: Sequence[Window]) -> Evidence:
    return evidence(*some)
