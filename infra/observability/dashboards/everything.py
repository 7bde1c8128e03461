"""All dashboards."""

from __future__ import annotations

from infra.observability.catalogue import Catalogue
from infra.observability.dashboards.model import drift, quality
from infra.observability.dashboards.panels import Dashboard
from infra.observability.dashboards.release import cost, release
from infra.observability.dashboards.service import service


def dashboards(catalogue: Catalogue) -> list[Dashboard]:
    """In the order in which people look at them."""
    return [make(catalogue) for make in (service, quality, drift, release, cost)]
