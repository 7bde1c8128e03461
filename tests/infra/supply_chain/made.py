"""A provenance to vary."""

from __future__ import annotations

from infra.supply_chain.provenance import Model, Provenance

BILL = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": []}

MODEL = Model(
    version="a" * 64,
    name="tiny",
    quantisation="none",
    sha256="b" * 64,
    git_revision="c" * 40,
    config_digest="d" * 64,
    dataset_digest="e" * 64,
    lock_digest="f" * 64,
    device="cpu",
    precision="32-true",
    test_images=10,
    test_accuracy=0.9,
    test_macro_f1=0.89,
    test_loss=0.3,
    test_calibration_error=0.01,
)


def made(sbom: str, commit: str = "1" * 40, builder: str = "urn:kiln:builder:local") -> Provenance:
    """One build."""
    return Provenance(
        repository="https://git.invalid/kiln",
        commit=commit,
        lock="2" * 64,
        sbom=sbom,
        model=MODEL,
        builder=builder,
        run="",
        finished="2026-01-01T00:00:00Z",
    )
