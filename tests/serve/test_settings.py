"""serve/settings.py: what a deployment decides."""

from pathlib import Path

import pytest

from serve.settings import Settings, SettingsError


def test_variables_become_settings() -> None:
    found = Settings.from_environment(
        {
            "KILN_MODEL": "a/model.onnx",
            "KILN_PORT": "80",
            "KILN_API_KEYS": f"{'a' * 64}, {'b' * 64}",
            "KILN_CORS_ORIGINS": "https://a.example,http://localhost:3000",
            "KILN_ROOT_PATH": "/prod/",
            "KILN_HOST": "",
            "HOME": "/root",
        }
    )
    assert found.model == Path("a/model.onnx")
    assert found.port == 80
    assert found.api_keys == ("a" * 64, "b" * 64)
    assert found.cors_origins == ("https://a.example", "http://localhost:3000")
    assert found.root_path == "/prod"
    assert found.host == Settings().host


def test_the_processors_are_no_variable() -> None:
    assert Settings.from_environment({"KILN_CPUS": "77"}).cpus == Settings().cpus


def test_every_wrong_variable_is_named_with_what_was_expected() -> None:
    wrong = {"KILN_PORT": "http", "KILN_MAX_QUEUE": "5", "KILN_API_KEYS": "secret"}
    with pytest.raises(SettingsError) as refusal:
        Settings.from_environment(wrong)
    for variable, value in wrong.items():
        assert f"{variable} is {value!r}, " in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("CORS_ORIGINS", "example.org"),
        ("CORS_ORIGINS", "https://example.org/path"),
        ("ROOT_PATH", "prod"),
        ("ROOT_PATH", "/"),
        ("DEADLINE_MS", "0"),
        ("ACCESS_LOG", "some"),
        ("DRIFT_RATE", "-1"),
        ("API_KEYS", f"{'a' * 64},b"),
        ("WORKERS", "-1"),
    ],
)
def test_values_that_make_no_sense_are_refused(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=f"KILN_{name} is"):
        Settings.from_environment({f"KILN_{name}": text})


@pytest.mark.parametrize(
    ("cpus", "workers", "threads", "expected"),
    [(1, 0, 0, (1, 1)), (4, 0, 0, (4, 1)), (4, 2, 0, (2, 2)), (4, 1, 3, (1, 3)), (2, 8, 0, (8, 1))],
)
def test_processes_share_the_processors(
    cpus: int, workers: int, threads: int, expected: tuple[int, int]
) -> None:
    found = Settings(cpus=cpus, workers=workers, threads=threads)
    assert (found.processes, found.session_threads) == expected
