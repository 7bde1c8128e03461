"""Settings are read strictly, and every file that is there can be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.release.errors import ReleaseError
from infra.release.settings import FOLDER, STRATEGIES, parse_settings, read_settings


@pytest.mark.parametrize("env", [path.stem for path in FOLDER.glob("*.toml")])
def test_every_environment_has_settings_for_every_strategy(env: str) -> None:
    settings = read_settings(env)
    for strategy in STRATEGIES:
        weights = [step.weight for step in settings.steps(strategy)]
        assert weights == sorted(weights)
        assert all(0 <= weight < 1 for weight in weights)


def test_the_last_step_asks_for_proof_and_earlier_ones_for_no_harm() -> None:
    steps = parse_settings("[canary]\nweights = [0.1, 0.5]").steps("canary")
    assert [step.proof for step in steps] == [False, True]
    strict = parse_settings('[canary]\nweights = [0.1, 0.5]\nadvance_on = "promote"')
    assert all(step.proof for step in strict.steps("canary"))
    assert not any(step.proof for step in strict.steps("ab"))


def test_linear_goes_up_by_equal_increments() -> None:
    steps = parse_settings("[linear]\nincrement = 0.25").steps("linear")
    assert [step.weight for step in steps] == [0.25, 0.5, 0.75]


SESSION_S = 3600  # of a role that GitHub's token is exchanged for, by default


@pytest.mark.parametrize("env", [path.stem for path in FOLDER.glob("*.toml")])
def test_a_release_ends_before_its_credentials(env: str) -> None:
    settings = read_settings(env)
    for strategy in STRATEGIES:
        if strategy != "ab":  # a split on purpose, which a person ends
            bakes = sum(step.bake_s for step in settings.steps(strategy))
            assert bakes + settings.most_hold_s + settings.watch_s <= SESSION_S - 240, strategy


def test_limits_follow_the_model_and_the_file_wins() -> None:
    settings = parse_settings("[verdict]\nharmful_error_excess = 0.02")
    same, other = (settings.policy(is_same_model=which) for which in (True, False))
    assert (same.harmful_accuracy_loss, other.harmful_accuracy_loss) == (0.01, 0.02)
    assert (same.informing, other.informing) == ((), ("disagreement",))
    assert same.harmful_error_excess == other.harmful_error_excess == 0.02
    quiet = parse_settings('profile = "low traffic"').policy(is_same_model=True)
    assert quiet.fewest_requests > 10**9


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("profile = 'loud'", "$.profile"),
        ("strategy = 'yolo'", "$.strategy"),
        ("[canary]\nweights = [0.5, 0.1]", "weights: expected rising shares"),
        ("[canary]\nweights = [0.5, 1.0]", "$.canary"),
        ("[canary]\nweights = []", "$.canary.weights"),
        ("[canary]\nbake = 3", "field `bake` - at `$.canary`"),
        ("[blue-green]\nlook_s = 0", "$.blue-green.look_s"),
        ("[canari]\nbake_s = 3", "field `canari`"),
        ("[golden]\nper_look = 'all'", "$.golden.per_look"),
        ("[verdict]\nfalse_alarm_rate = 2.0", "$.verdict.false_alarm_rate"),
        ("[verdict]\nlatency = 2.0", "field `latency` - at `$.verdict`"),
        ("poll_s = 0", "$.poll_s"),
        ("golden = 3", "$.golden"),
        ("= 3", "line 1"),
    ],
)
def test_what_makes_no_sense_is_named_by_its_place(text: str, place: str) -> None:
    with pytest.raises(ReleaseError) as caught:
        parse_settings(text)
    assert place in str(caught.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ReleaseError, match=rf"{file}: expected TOML in UTF-8"):
        read_settings("dev", file)


def test_an_unknown_environment_is_told_which_there_are() -> None:
    with pytest.raises(ReleaseError, match="dev, prod, staging"):
        read_settings("moon")
