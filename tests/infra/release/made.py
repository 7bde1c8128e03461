"""Decisions as they may stand in a ledger."""

from __future__ import annotations

from infra.release.state.ledger import Decision


def decision(kind: str = "begin", **values: object) -> Decision:
    """One of somebody's, from version 1 to 2."""
    facts: dict[str, object] = {
        "kind": kind,
        "release": "r",
        "who": "somebody",
        "when": "2026-11-26T12:00:00+00:00",
        "from_digest": "sha256:1",
        "to_digest": "sha256:2",
        "from_version": "1",
        "to_version": "2",
    }
    return Decision(**{**facts, **values})  # type: ignore[arg-type]
