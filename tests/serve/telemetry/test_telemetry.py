"""serve/telemetry: off, on, and what others hang on to it."""

import subprocess
import sys
from collections.abc import Mapping

import pytest

from serve.exchange import Exchange
from serve.settings import Settings, SettingsError
from serve.telemetry.export import SIGNALS, ExportSettings, QueueSettings, Sampler
from serve.telemetry.telemetry import Telemetry
from tests.serve.serving import bundled_predictor

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


def off() -> Telemetry:
    return Telemetry.start(Settings(cpus=1), bundled_predictor().metadata, environ={})


def test_without_an_endpoint_opentelemetry_is_not_even_imported() -> None:
    program = (
        "import sys\n"
        "from serve.server.server import application\n"
        "application()\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))\n"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "KILN_MODEL": "ml/bundled/model.int8.onnx"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert done.returncode == 0


def test_telemetry_that_is_off_can_be_used_as_if_it_were_on() -> None:
    telemetry = off()
    telemetry.instrument(lambda _: pytest.fail("there is no meter"))
    telemetry.renew()
    assert not telemetry.is_on
    assert telemetry.flush(0.0)
    telemetry.close()


def test_every_observer_is_told_even_after_one_that_fails() -> None:
    telemetry, seen = off(), list[str]()

    def fails(exchange: Exchange, method: str, path: str) -> None:
        raise ZeroDivisionError

    telemetry.add_observer(fails)
    telemetry.add_observer(lambda exchange, method, path: seen.append(path))
    telemetry.observer(Exchange(None), "GET", "/health")
    telemetry.observer(Exchange(None), "GET", "/ready")
    assert seen == ["/health", "/ready"]


@pytest.mark.parametrize(
    ("variables", "signals"),
    [
        ({}, set()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, set()),
        (ENDPOINT, set(SIGNALS)),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "TRUE"}, set()),
        (ENDPOINT | {"OTEL_LOGS_EXPORTER": "none"}, {"metrics", "traces"}),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "https://example.org/v1/metrics"}, {"metrics"}),
    ],
)
def test_a_signal_is_exported_where_it_has_an_endpoint(
    variables: Mapping[str, str], signals: set[str]
) -> None:
    assert ExportSettings.from_environment(variables).signals == signals


def test_standard_variables_are_followed() -> None:
    found = ExportSettings.from_environment(
        {
            **ENDPOINT,
            "OTEL_TRACES_SAMPLER": "traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.25",
            "OTEL_METRIC_EXPORT_INTERVAL": "15000",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_BLRP_MAX_QUEUE_SIZE": "9",
        }
    )
    assert found.sampler == Sampler(0.25, follows_parent=False)
    assert found.metrics_interval_s == 15.0
    assert (found.span_queue, found.log_queue) == (
        QueueSettings(0.1),
        QueueSettings(1.0, capacity=9),
    )


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ("OTEL_TRACES_SAMPLER_ARG", "nan"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4318"),
        ("OTEL_LOGS_EXPORTER", "console"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "-1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
    ],
)
def test_a_wrong_variable_is_named_with_what_was_expected(variable: str, text: str) -> None:
    with pytest.raises(SettingsError, match=rf"{variable}.* '{text}'"):
        ExportSettings.from_environment({**ENDPOINT, variable: text})
    ExportSettings.from_environment({variable: text} if "ENDPOINT" not in variable else {})


def test_all_wrong_variables_are_named_at_once() -> None:
    wrong = {"OTEL_TRACES_SAMPLER_ARG": "2", "OTEL_BLRP_SCHEDULE_DELAY": "soon"}
    with pytest.raises(SettingsError) as refusal:
        ExportSettings.from_environment({**ENDPOINT, **wrong})
    assert all(variable in str(refusal.value) for variable in wrong)
