"""The guide about a metric: its blocks, put where it says, go through the real generator."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from common.programs import require_program
from infra.observability.catalogue import PATH, load
from infra.observability.dashboards import PATH as DASHBOARDS
from infra.observability.dashboards import dashboards
from infra.observability.generate import files
from serve.telemetry.instruments import Instrument

PAGE = Path("docs/guides/new-metric.md").read_text(encoding="utf-8")
TOML, INSTRUMENT, PANEL = re.findall(r"^```(?:toml|python)\n(.*?)^```$", PAGE, re.M | re.S)
NAME = "kiln.images.large"


def extended(folder: Path) -> Path:
    """The catalogue with the page's entry behind the last metric."""
    before, first_promise, after = PATH.read_text(encoding="utf-8").partition("\n[[slo]]")
    place = folder / "catalogue.toml"
    place.write_text(f"{before}\n{TOML}{first_promise}{after}", encoding="utf-8")
    return place


def test_the_catalogue_takes_the_entry_and_everything_follows(tmp_path: Path) -> None:
    before, found = files(load()), files(load(extended(tmp_path)))
    changed = {name for name, text in found.items() if before[name] != text}
    assert {
        "docs/runbook.md",
        "infra/observability/prometheus/kiln.rules.yml",
        "infra/terraform/modules/alarms/alarms.tf.json",
    } <= changed
    assert "ManyLargeImages" in found["docs/runbook.md"]
    assert "many-large-images" in found["infra/terraform/modules/alarms/alarms.tf.json"]


def test_prometheus_accepts_the_new_rule(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    rules.write_text(
        files(load(extended(tmp_path)))["infra/observability/prometheus/kiln.rules.yml"]
    )
    assert "ManyLargeImages" in rules.read_text()
    check = [str(require_program("promtool")), "check", "rules", str(rules)]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_instrument_says_what_the_catalogue_says(tmp_path: Path) -> None:
    scope: dict[str, object] = {"Instrument": Instrument}
    exec(INSTRUMENT, scope)  # noqa: S102 # the page's own block
    made, entry = scope["LARGE_IMAGES"], load(extended(tmp_path))[NAME]
    assert isinstance(made, Instrument)
    assert (made.name, made.kind, made.unit) == (entry.name, entry.kind, entry.unit)
    assert (made.description, list(made.labels)) == (entry.description, list(entry.labels))


def test_the_panel_is_one(tmp_path: Path) -> None:
    place = tmp_path / "dashboards.toml"
    place.write_text(f"{DASHBOARDS.read_text(encoding='utf-8')}\n{PANEL}", encoding="utf-8")
    last = dashboards(load(extended(tmp_path)), place)[-1].panels[-1]
    assert (last.title, last.warn_above) == ("Large images", 5.0)
