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


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("strategy = 'yolo'", "strategy: expected one of canary"),
        ("[canary]\nweights = [0.5, 0.1]", "canary.weights: expected rising shares"),
        ("[canary]\nweights = [0.5, 1.0]", "canary.weights: expected rising shares"),
        ("[canary]\nbake = 3", "canary.bake: expected one of weights"),
        ("[golden]\nper_look = 'all'", "golden.per_look: expected a value like 200"),
        ("[verdict]\nfalse_alarm_rate = 2.0", "verdict.false_alarm_rate: expected a share"),
        ("[verdict]\nlatency = 2.0", "verdict.unknown key 'latency'"),
        ("poll_s = 0", "poll_s: expected more than 0"),
        ("golden = 3", "golden: expected a table"),
        ("= 3", "no TOML"),
    ],
)
def test_what_makes_no_sense_is_named(text: str, says: str) -> None:
    with pytest.raises(ReleaseError) as caught:
        parse_settings(text)
    assert says in str(caught.value)


def test_a_table_with_an_unknown_name_is_told_the_tables() -> None:
    with pytest.raises(ReleaseError, match=r"canari: expected one of strategy, .*, canary, "):
        parse_settings("[canari]\nbake_s = 3")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ReleaseError, match=rf"{file}: expected TOML in UTF-8"):
        read_settings("dev", file)


def test_an_unknown_environment_is_told_which_there_are() -> None:
    with pytest.raises(ReleaseError, match="dev, prod, staging"):
        read_settings("moon")
