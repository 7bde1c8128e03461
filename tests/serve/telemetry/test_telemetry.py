"""serve/telemetry: off, on, and what others hang on to it."""

import subprocess
import sys

import pytest

from serve.call import Call
from serve.settings import Settings, SettingsError
from serve.telemetry.telemetry import Telemetry

# Nothing listens at port 9, "discard": connections are refused.
NOWHERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


def test_without_an_endpoint_opentelemetry_is_not_even_imported() -> None:
    program = (
        "import sys\n"
        "from serve.settings import Settings\n"
        "from serve.telemetry.telemetry import Telemetry\n"
        "telemetry = Telemetry.start(Settings(cpus=1), environ={})\n"
        "assert not telemetry.is_on and telemetry.flush(0.0)\n"
        "telemetry.renew(), telemetry.close()\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_disabling_the_sdk_wins_over_an_endpoint() -> None:
    environ = {**NOWHERE, "OTEL_SDK_DISABLED": "true"}
    assert not Telemetry.start(Settings(cpus=1), environ=environ).is_on


def test_every_observer_is_told_even_after_one_that_fails() -> None:
    telemetry, seen = Telemetry.start(Settings(cpus=1), environ={}), list[str]()

    def fails(call: Call, method: str, path: str) -> None:
        raise ZeroDivisionError

    telemetry.add_observer(fails)
    telemetry.add_observer(lambda call, method, path: seen.append(path))
    telemetry.observer(Call(None), "GET", "/health")
    telemetry.observer(Call(None), "GET", "/ready")
    assert seen == ["/health", "/ready"]


def test_every_wrong_variable_is_named() -> None:
    environ = {
        **NOWHERE,
        "OTEL_TRACES_SAMPLER_ARG": "2",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_LOGS_EXPORTER": "console",
    }
    with pytest.raises(SettingsError) as error:
        Telemetry.start(Settings(cpus=1), environ=environ)
    assert all(name in str(error.value) for name in list(environ)[1:])
