"""Grafana dashboards of the model: quality of the answers, and drift of the traffic."""

from __future__ import annotations

from infra.observability.catalogue import Catalogue
from infra.observability.dashboard_panels import Dashboard, panel

_OURS = 'kiln_model_version=~"$version"'


def quality(catalogue: Catalogue) -> Dashboard:
    """Answers: classes, confidence, and accuracy where the truth is known."""
    mix = f"sum by (class) (kiln:predictions:increase5m{{{_OURS}}})"
    total = f"ignoring (class) group_left () sum(kiln:predictions:increase5m{{{_OURS}}})"
    buckets = f"kiln:confidence_bucket:increase5m{{{_OURS}}}"
    golden = catalogue["kiln.golden.accuracy"]
    unsure = f'sum(kiln:confidence_bucket:increase5m{{le="0.5",{_OURS}}})'
    everything = f'sum(kiln:confidence_bucket:increase5m{{le="+Inf",{_OURS}}})'
    return Dashboard(
        "kiln-model",
        "Kiln: model quality",
        "What the model answers. Accuracy is known on the golden images alone.",
        [
            (
                "Accuracy",
                [
                    panel(
                        "Golden images answered rightly, by version",
                        "percentunit",
                        (
                            f"max by (faas_version) ({golden.prometheus})",
                            "version {{faas_version}}",
                        ),
                        warn_below=golden.alerts[0].below,
                        width=16,
                    ),
                    panel(
                        "Served models",
                        "short",
                        (
                            "count by (name, version, quantisation) (kiln_model_info_ratio)",
                            "{{name}} {{version}} {{quantisation}}",
                        ),
                        kind="bargauge",
                        description="Processes by the model that they serve",
                    ),
                ],
            ),
            (
                "Answers",
                [
                    panel(
                        "Class mix", "percentunit", (f"{mix} / {total}", "{{class}}"), stacked=True
                    ),
                    panel(
                        "Confidence",
                        "percentunit",
                        *(
                            (
                                f"histogram_quantile({q}, sum by (le) ({buckets}))",
                                f"p{int(q * 100)}",
                            )
                            for q in (0.1, 0.5, 0.9)
                        ),
                    ),
                    panel(
                        "Unsure: at most 50 % confident",
                        "percentunit",
                        (f"{unsure} / {everything}", "share"),
                    ),
                    panel(
                        "Images a second",
                        "short",
                        (f"sum(kiln:predictions:increase5m{{{_OURS}}}) / 300", "images"),
                        width=24,
                    ),
                ],
            ),
        ],
    )


def drift(catalogue: Catalogue) -> Dashboard:
    """The traffic beside the reference inside the model."""
    alarm, score = (
        catalogue["kiln.drift.alarm"].prometheus,
        catalogue["kiln.drift.score"].prometheus,
    )
    threshold = catalogue["kiln.drift.threshold"].prometheus
    images = catalogue["kiln.drift.window.images"].prometheus
    reference = catalogue["kiln.drift.reference.share"].prometheus
    seen = 'kiln:drift_images:increase5m{signal="predicted_class"}'
    return Dashboard(
        "kiln-drift",
        "Kiln: drift",
        "Whether the images, and the answers to them, are like those of the model's test set.",
        [
            (
                "Alarms of single processes",
                [
                    panel(
                        "Alarm",
                        "short",
                        (f"max by (window) ({alarm})", "last {{window}} images"),
                        warn_above=1,
                    ),
                    panel(
                        "Worst score by signal, in thresholds",
                        "short",
                        (f"max by (signal) ({score} / {threshold})", "{{signal}}"),
                        warn_above=1,
                        width=16,
                        description="Above 1: beyond what chance does, and large enough to matter",
                    ),
                    panel(
                        "Images in the window",
                        "short",
                        (f"max by (window) ({images})", "{{window}}"),
                        width=24,
                    ),
                ],
            ),
            (
                "All processes together",
                [
                    panel(
                        "PSI of five minutes, by signal",
                        "short",
                        ("kiln:drift_psi:5m", "{{signal}}"),
                        warn_above=0.1,
                        width=12,
                        description="From 50 measured images on; below 0.1 nothing has changed",
                    ),
                    panel(
                        "Predicted classes less the reference, in points",
                        "percentunit",
                        (
                            f"{seen} / ignoring (bin) group_left () sum by (signal) ({seen}) - "
                            f'max by (signal, bin) ({reference}{{signal="predicted_class"}})',
                            "{{bin}}",
                        ),
                        width=12,
                    ),
                ],
            ),
        ],
    )
