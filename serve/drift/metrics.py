"""Metrics of the drift alarm, as defined in infra/observability/catalogue.toml."""

from serve.telemetry.instruments import Instrument

PAUSE_S = 15.0  # between two exports of a process's drift

ALARM = Instrument(
    "kiln.drift.alarm", "gauge", "1", "1 while a window's alarm is raised", ("window",)
)

WINDOW_IMAGES = Instrument(
    "kiln.drift.window.images", "gauge", "{image}", "Images in a window", ("window",)
)
