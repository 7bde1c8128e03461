"""Simulated releases: harmless and harmful scenarios, and random counts drawn from them.

Golden images are answered by the model that is served, once; the scenarios change these answers.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from common.betting import Floats
from infra.release.settings import Settings
from infra.release.verdict.measures import ArmArrays, EvidenceArrays
from infra.release.verdict.policy import ProfileName

CONFIDENCE_EDGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_RECORD, _BATCH = 3073, 250


@dataclass(frozen=True)
class Golden:
    """A model's predictions for N images."""

    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    confidence: NDArray[np.float64]


def answer(
    model: Path, records: Path, images: int, threads: int, progress: Callable[[int], None]
) -> Golden:
    """Runs a model on the first images of a file in CIFAR-10's binary layout.

    Raises:
        ValueError: the file has another format.
    """
    size = records.stat().st_size
    if not size or size % _RECORD:
        raise ValueError(f"{records}: {size} bytes are not records of {_RECORD} bytes")
    data = np.fromfile(records, np.uint8, images * _RECORD).reshape(-1, _RECORD)
    planes = data[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found = []
    for start in range(0, len(planes), _BATCH):
        batch = np.ascontiguousarray(planes[start : start + _BATCH])
        found.append(session.run(["probabilities"], {"images": batch})[0])
        progress(len(batch))
    probabilities = np.concatenate(found)
    return Golden(
        data[:, 0].astype(np.int64),
        probabilities.argmax(1).astype(np.int64),
        probabilities.max(1).astype(np.float64),
    )


def made_up(images: int, seed: int) -> Golden:
    """Synthetic predictions for quick looks: ten classes, random errors."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, images)
    wrong = random.random(images) > 0.93
    predictions = np.where(wrong, (labels + random.integers(1, 10, images)) % 10, labels)
    confidence = np.where(wrong, random.uniform(0.3, 1, images), random.beta(8, 0.6, images))
    return Golden(labels, predictions, np.clip(confidence, 0.1, 1))


# The service's buckets, in seconds.
EDGES = np.array(
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0]
)
ERROR_RATE, REFUSAL_RATE = 0.001, 0.03
MEDIAN_S, SPREAD = 0.008, 0.5  # of a log-normal latency: p99 is 25.6 ms


@dataclass(frozen=True)
class Plan:
    """The looks at a release, by an environment's strategy.

    Attributes:
        shares: (W,) the candidate's share of the traffic in each window.
        look_s: length of a window.
        golden: images replayed per look.
        promoted_from: first window after which the release may be promoted.
    """

    shares: Floats
    look_s: float
    golden: int
    promoted_from: int


def plan_of(settings: Settings) -> Plan:
    """The looks of a canary until its time for evidence is used up."""
    steps = settings.steps("canary")
    looks = [ceil(step.bake_s / step.look_s) for step in steps]
    held = floor(settings.most_hold_s / steps[-1].look_s)
    shares = np.repeat([step.weight for step in steps], [*looks[:-1], looks[-1] + held])
    return Plan(shares, steps[0].look_s, settings.golden.per_look, sum(looks) - 1)


@dataclass(frozen=True)
class Scenario:
    """The candidate's differences from stable; by default, none."""

    name: str
    harmless: bool = False
    profile: ProfileName = "same model"
    error_rate: float = ERROR_RATE
    stable_error_rate: float = ERROR_RATE
    callers_only: bool = False  # errors, refusals and time, which the replay's calls do not meet
    refusal_rate: float = REFUSAL_RATE
    tail_share: float = 0.0  # share of requests, slowed by this factor
    tail_factor: float = 1.0
    slower: float = 1.0  # all requests
    lost: float = 0.0  # share of golden images, on balance
    changed: float = 0.0  # share that one version alone gets right, beyond `lost`
    mislabelled: bool = False  # each class answers with the next one's name
    storm: bool = False  # both arms fail 5 % and answer twice as slowly in windows 7 to 9
    a_minute: float | None = None  # requests of both arms; None for the usual traffic
    burst: float = 1.0  # times as many requests, and all twice as slow, in every fifth window
    growing: float = 0.002  # share of calls that leave more memory behind
    slower_start: float = 1.0  # all cold starts
    secrets: float = 0.0  # share of log lines with a key or an image
    labelled: float = 0.0  # share of predictions that are labelled; 0: none
    more_wrong: float = 0.0  # share of these, above stable's 10 %: on images unlike golden ones


# A twentieth of the requests takes 4.2 times as long: the p99 doubles, the median hardly changes.
_TAIL = 4.187
_QUIET: dict[str, Any] = {"profile": "low traffic", "a_minute": 1.0}
_RETRAINED: dict[str, Any] = {"profile": "retrained"}
SCENARIOS = (
    Scenario("same model", harmless=True),
    Scenario("same model, outage of both", harmless=True, storm=True),
    Scenario(
        "same model, 3 % errors of both, as of one caller whose requests all fail",
        harmless=True,
        error_rate=0.03,
        stable_error_rate=0.03,
    ),
    Scenario("same model, 30 requests a minute", harmless=True, a_minute=30),
    *(
        Scenario(
            f"retrained, {k} % of answers changed", harmless=True, changed=k / 100, **_RETRAINED
        )
        for k in (2, 4, 6, 8, 10)
    ),
    Scenario("same model, 1 request a minute", harmless=True, **_QUIET),
    Scenario("retrained, 10 % changed, 1 request a minute", harmless=True, changed=0.1, **_QUIET),
    Scenario("same model, no caller at all", harmless=True, profile="low traffic", a_minute=0.0),
    Scenario("same model, bursts of 100 times 30 a minute", harmless=True, a_minute=30, burst=100),
    *(Scenario(f"{k} % of accuracy lost, same model damaged", lost=k / 100) for k in (1, 2, 5)),
    Scenario("same model, 1 % of answers labelled", harmless=True, labelled=0.01),
    Scenario(
        "retrained, 10 % changed, 1 % labelled, 5 points better",
        harmless=True,
        changed=0.1,
        labelled=0.01,
        more_wrong=-0.05,
        **_RETRAINED,
    ),
    Scenario(
        "10 points worse where golden images do not tell, 10 % labelled",
        labelled=0.1,
        more_wrong=0.1,
    ),
    Scenario(
        "retrained, 20 points worse where golden images do not tell, 3 % labelled",
        changed=0.1,
        labelled=0.03,
        more_wrong=0.2,
        **_RETRAINED,
    ),
    *(
        Scenario(f"{k} % of accuracy lost, retrained", lost=k / 100, changed=0.1, **_RETRAINED)
        for k in (2, 3, 5)
    ),
    Scenario("p99 doubled", tail_share=0.05, tail_factor=_TAIL),
    Scenario("everything twice as slow", slower=2.0),
    Scenario("0.6 % errors instead of 0.1 %", error_rate=0.006),
    Scenario("1 % errors instead of 0.1 %", error_rate=0.01),
    Scenario("5 % errors", error_rate=0.05),
    Scenario("6 % errors instead of 3 %", error_rate=0.06, stable_error_rate=0.03),
    Scenario("crash: every request fails", error_rate=1.0),
    Scenario("30 % of requests refused instead of 3 %", refusal_rate=0.3),
    Scenario("a leak of 4 MB a request", growing=1.0),
    Scenario("cold starts take 3 times as long", slower_start=3.0),
    Scenario("images in one line of 1,000", secrets=0.001),
    Scenario("mislabelled: each class under the next one's name", mislabelled=True),
    Scenario("2 % of accuracy lost, 1 request a minute", lost=0.02, changed=0.1, **_QUIET),
    Scenario("a leak of 4 MB a request, 1 request a minute", growing=1.0, **_QUIET),
    Scenario("5 % errors, 1 request a minute", error_rate=0.05, **_QUIET),
    Scenario("30 % refused, 1 request a minute", refusal_rate=0.3, **_QUIET),
    Scenario(
        "every caller refused, no golden image, 1 request a minute",
        refusal_rate=1.0,
        callers_only=True,
        **_QUIET,
    ),
    Scenario(
        "every caller fails, no golden image, 1 request a minute",
        error_rate=1.0,
        callers_only=True,
        **_QUIET,
    ),
    Scenario(
        "every caller waits 10 times as long, no golden image, 1 request a minute",
        slower=10.0,
        callers_only=True,
        **_QUIET,
    ),
    Scenario("p99 doubled, 1 request a minute", tail_share=0.05, tail_factor=_TAIL, **_QUIET),
)


def bucket_shares(scenario: Scenario, window: int, *, candidate: bool) -> Floats:
    """(E + 1,) Share of answers in each latency bucket."""
    factor = 2.0 if is_storm(scenario, window) or is_burst(scenario, window) else 1.0
    if not candidate:
        return _log_normal(MEDIAN_S * factor)
    usual = MEDIAN_S * factor * scenario.slower
    tail = _log_normal(usual * scenario.tail_factor)
    return (1 - scenario.tail_share) * _log_normal(usual) + scenario.tail_share * tail


def error_rates(scenario: Scenario, window: int) -> tuple[float, float]:
    """Error rates of stable and of the candidate."""
    if is_storm(scenario, window):
        return 0.05, 0.05
    return scenario.stable_error_rate, scenario.error_rate


def is_storm(scenario: Scenario, window: int) -> bool:
    """Whether an external event hits both arms."""
    return scenario.storm and 6 <= window <= 8


def is_burst(scenario: Scenario, window: int) -> bool:
    """Whether callers come all at once."""
    return scenario.burst > 1 and window % 5 == 3


def p99_ratio(scenario: Scenario) -> float:
    """The candidate's true p99 relative to stable's."""

    def p99(median: float, share: float, factor: float) -> float:
        times = np.geomspace(1e-3, 1, 20_001)
        below = (1 - share) * _below(times, median) + share * _below(times, median * factor)
        return float(times[np.searchsorted(below, 0.99)])

    slow = p99(MEDIAN_S * scenario.slower, scenario.tail_share, scenario.tail_factor)
    return slow / p99(MEDIAN_S, 0.0, 1.0)


def _log_normal(median: float) -> Floats:
    return np.diff(np.concatenate([[0.0], _below(EDGES, median), [1.0]]))


def _below(times: Floats, median: float) -> Floats:
    """CDF of a log-normal distribution. Abramowitz & Stegun 7.1.26, to 1.5e-7."""
    z = np.log(times / median) / SPREAD / np.sqrt(2)
    t = 1 / (1 + 0.3275911 * np.abs(z))
    sum_ = t * (
        0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
    )
    erf = np.sign(z) * (1 - sum_ * np.exp(-z * z))
    below: Floats = (1 + erf) / 2
    return below


def draw(
    scenario: Scenario,
    golden: Golden,
    releases: int,
    plan: Plan,
    a_minute: float,
    random: np.random.Generator,
) -> EvidenceArrays:
    """Random evidence with a leading axis of releases.

    Args:
        a_minute: default traffic, requests of both arms.
    """
    usual = a_minute if scenario.a_minute is None else scenario.a_minute
    windows = range(len(plan.shares))
    many = [scenario.burst if is_burst(scenario, window) else 1 for window in windows]
    asked = np.array(many) * usual * plan.look_s / 60
    replay = _replay(scenario, golden, releases, plan, random)
    calls = replay.sum(-1)
    arms: dict[str, ArmArrays] = {}
    for name, share, is_candidate in (
        ("stable", 1 - plan.shares, False),
        ("candidate", plan.shares, True),
    ):
        # With much traffic all releases have equal totals, which saves the judge much work.
        expected = asked * share
        requests = np.round(expected)[None].astype(np.int64)
        if asked.min() < _MUCH:
            requests = random.poisson(expected, (releases, len(expected)))
        parts = (scenario, golden, releases, random)
        of_callers = _arm(*parts, requests, is_candidate=is_candidate)
        arms[name] = _with_reports(of_callers, scenario, calls, random, is_candidate=is_candidate)
        if scenario.callers_only:
            usually = replace(
                scenario, error_rate=ERROR_RATE, refusal_rate=REFUSAL_RATE, slower=1.0
            )
            parts = (usually, golden, releases, random)
        of_replay = _arm(*parts, calls[:1].astype(np.int64), is_candidate=is_candidate)
        arms[f"replay_{name}"] = replace(
            of_replay, classes=of_replay.classes[..., :0], confidence=of_replay.confidence[..., :0]
        )
    labelled = None
    if scenario.labelled:
        labelled = (
            _labels(scenario, arms["stable"], WRONG, random),
            _labels(scenario, arms["candidate"], WRONG + scenario.more_wrong, random),
        )
    return EvidenceArrays(EDGES, golden=replay, labelled=labelled, **arms)


WRONG = 0.1  # of stable's labelled predictions


def _labels(
    scenario: Scenario, arm: ArmArrays, wrong: float, random: np.random.Generator
) -> Floats:
    """(R, W, 2) Labelled predictions, right and wrong."""
    answered = np.broadcast_to(arm.requests, arm.errors.shape) - arm.errors
    known = random.binomial(answered.astype(np.int64), scenario.labelled)
    mistakes = random.binomial(known, wrong)
    return np.stack([known - mistakes, mistakes], -1).astype(np.float64)


_MUCH = 1000  # requests per window


def _arm(
    scenario: Scenario,
    golden: Golden,
    releases: int,
    random: np.random.Generator,
    requests: NDArray[np.int64],
    *,
    is_candidate: bool,
) -> ArmArrays:
    windows = range(requests.shape[-1])
    rates = np.array([error_rates(scenario, window)[int(is_candidate)] for window in windows])
    errors = random.binomial(requests, rates, (releases, len(windows)))
    refusal_rate = scenario.refusal_rate if is_candidate else REFUSAL_RATE
    refusals = random.binomial(requests - errors, refusal_rate)
    answered = requests - errors - refusals
    shares = [bucket_shares(scenario, window, candidate=is_candidate) for window in windows]
    latency = [random.multinomial(answered[:, w], shares[w]) for w in windows]
    kinds = 1 + max(int(golden.labels.max()), int(golden.predictions.max()))
    named = (golden.predictions + int(is_candidate and scenario.mislabelled)) % kinds
    classes = np.bincount(named, minlength=kinds) / len(named)
    bins = np.searchsorted(CONFIDENCE_EDGES, golden.confidence)
    confidence = np.bincount(bins, minlength=len(CONFIDENCE_EDGES) + 1) / len(bins)
    none = np.zeros(errors.shape)
    return ArmArrays(
        requests=requests.astype(np.float64),
        errors=errors.astype(np.float64),
        refusals=refusals[..., None].astype(np.float64),
        latency=np.stack(latency, 1).astype(np.float64),
        classes=random.multinomial(answered, classes).astype(np.float64),
        confidence=random.multinomial(answered, confidence).astype(np.float64),
        calls=none,
        settled=none,
        grew=none,
        peak=none,
        starts=np.zeros((*none.shape, len(EDGES) + 1)),
        lines=none,
        secrets=none,
    )


START_S, SAMPLE = 0.6, 5000  # median of a cold start; log lines searched per look


def _with_reports(
    arm: ArmArrays,
    scenario: Scenario,
    replayed: Floats,
    random: np.random.Generator,
    *,
    is_candidate: bool,
) -> ArmArrays:
    """Lambda's reports on callers' requests and the replay, and findings in the log.

    The replay has four environments, and callers one per thousand requests; an environment settles
    with its twentieth call. Stable has 40 cold starts of the day before, the candidate four per
    look.
    """
    calls = (arm.requests + replayed).astype(np.int64)
    young = 20 * (4 + np.cumsum(calls, -1) // 1000)
    settled = np.maximum(0, calls - np.diff(young, axis=-1, prepend=0))
    windows = calls.shape[-1]
    starts = np.full(windows, 4 if is_candidate else 0)
    starts[0] += 0 if is_candidate else 40
    shares = _log_normal(START_S * (scenario.slower_start if is_candidate else 1))
    lines = np.minimum(3 * calls, SAMPLE) * is_candidate
    growing = scenario.growing if is_candidate else Scenario("").growing
    return replace(
        arm,
        calls=calls.astype(np.float64),
        settled=settled.astype(np.float64),
        grew=random.binomial(settled, growing).astype(np.float64),
        peak=np.full(calls.shape, 0.4),
        starts=random.multinomial(starts, shares, (len(calls), windows)).astype(np.float64),
        lines=lines.astype(np.float64),
        secrets=random.binomial(lines, scenario.secrets).astype(np.float64),
    )


def _replay(
    scenario: Scenario, golden: Golden, releases: int, plan: Plan, random: np.random.Generator
) -> Floats:
    """(R, W, 5) Every release replays the golden images in its own order through both versions.

    The candidate's answers are stable's, but for images drawn at random: right ones that turn wrong
    and wrong ones that turn right, so many that `lost` is lost on balance. In a random order the
    kinds of images in a window are drawn without replacement from those that are left.
    """
    windows = len(plan.shares)
    churn = scenario.changed / 2
    right = golden.predictions == golden.labels
    accuracy = right.mean()
    if scenario.mislabelled:
        kept = (golden.predictions + 1) % 10 == golden.labels
        both_wrong = int((~right & ~kept).sum())
        kinds = [(right & kept).sum(), (right & ~kept).sum(), (~right & kept).sum(), 0, both_wrong]
        left = np.tile(np.array(kinds, np.int64), (releases, 1))
    else:
        spoiled = min(1.0, (churn + scenario.lost) / accuracy)
        mended = min(1.0, churn / max(1 - accuracy, 1e-9))
        lost = random.binomial(right.sum(), spoiled, releases)
        won = random.binomial((~right).sum(), mended, releases)
        none = np.zeros_like(lost)
        left = np.stack([right.sum() - lost, lost, won, (~right).sum() - won, none], -1)
    return np.stack([_drawn(left, plan.golden, random) for _ in range(windows)], 1)


def _drawn(left: NDArray[np.int64], images: int, random: np.random.Generator) -> Floats:
    """(R, 5) That many images of those that are left, which loses them; all, where fewer are."""
    still = np.minimum(images, left.sum(-1))
    drawn = np.zeros_like(left)
    for kind in range(left.shape[1]):
        others = left[:, kind + 1 :].sum(-1)
        drawn[:, kind] = random.hypergeometric(left[:, kind], others, still)
        still = still - drawn[:, kind]
    left -= drawn
    return drawn.astype(np.float64)
