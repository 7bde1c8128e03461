"""Decides whether an image may be deployed: signed by us, with matching provenance.

    made = verify("…/kiln@sha256:…", key="cosign.pub")    # NotTrusted says why not
    made.commit, made.model.version, made.model.dataset_digest

It proves that the holder of the private key states that this digest was built from that commit,
lock, data and configuration, not that the statement is true; see docs/threat-model.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.supply_chain.cosign import Cosign, CosignError
from infra.supply_chain.provenance import (
    DIRTY,
    PREDICATE_TYPE,
    SERVICE,
    Provenance,
    ProvenanceError,
)

# cosign's short names of PREDICATE_TYPE and of https://cyclonedx.org/bom.
_PROVENANCE, _BILL = "slsaprovenance1", "cyclonedx"
_REFERENCE = re.compile(r"[^@\s]+/[^@\s]+@sha256:[0-9a-f]{64}")


class NotTrusted(Exception):
    """The image must not be deployed; the message says why, and what to do."""


@dataclass(frozen=True)
class Expectation:
    """Further requirements on the statement; None requires nothing.

    Attributes:
        builder: prefix of the builder's URI: the only workflow that may build releases.
        commit, model_version: those to be released.
        dirty: also accept an image built from uncommitted changes.
        target: what was built; one key signs the service and the watcher.
    """

    builder: str | None = None
    commit: str | None = None
    model_version: str | None = None
    dirty: bool = False
    target: str = SERVICE


def sign(
    reference: str,
    key: str,
    made: Provenance,
    bill: Mapping[str, Any],
    *,
    insecure: bool = False,
) -> None:
    """Signs the image in its registry and attaches provenance and bill of materials.

    Raises:
        ValueError: the reference has no digest, or the provenance is of another bill.
        CosignError: the key cannot be used, or the registry refuses the upload.
    """
    _digest(reference)
    if made.sbom != bill_digest(bill):
        raise ValueError("the bill of materials is not the one that the provenance names")
    cosign = Cosign(reference, insecure)
    cosign.attest(key, _PROVENANCE, made.to_predicate())
    cosign.attest(key, _BILL, bill)
    cosign.sign(key)  # last, so that a signed image always has its statements


def verify(
    reference: str, key: str | Path, expected: Expectation | None = None, *, insecure: bool = False
) -> Provenance:
    """The verified provenance of the image.

    Args:
        reference: ``registry/path@sha256:…``, since a tag may move.
        key: file of the public key, or ``awskms:///…``.

    Raises:
        NotTrusted: anything is missing, foreign or inconsistent.
        ValueError: the reference has no digest.
    """
    digest, cosign, key = _digest(reference), Cosign(reference, insecure), str(key)
    if "://" not in key and not Path(key).is_file():
        raise NotTrusted(f"no public key at {key}: the image cannot be checked")
    try:
        cosign.verify(key)
    except CosignError as exc:
        raise NotTrusted(f"{reference} has no signature of the holder of {key}: {exc}") from exc
    # The same bytes may be built and attested more than once, from commits that differ only outside
    # the image.
    made = [_read(p) for p in _predicates(cosign, key, _PROVENANCE, "provenance", digest)]
    bills = {bill_digest(b) for b in _predicates(cosign, key, _BILL, "bill of materials", digest)}
    found = [(one, _objection(one, bills, expected or Expectation())) for one in made]
    for one, objection in found:
        if objection is None:
            return one
    raise NotTrusted(f"{reference}: {found[-1][1]}")


def bill_digest(bill: Mapping[str, Any]) -> str:
    """SHA-256 of the document's canonical form, since cosign changes whitespace and order."""
    text = json.dumps(bill, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(reference: str) -> str:
    if not _REFERENCE.fullmatch(reference):
        raise ValueError(f"expected registry/path@sha256:…, got {reference!r}")
    return reference.rpartition(":")[2]


def _predicates(
    cosign: Cosign, key: str, kind: str, what: str, digest: str
) -> list[Mapping[str, Any]]:
    try:
        statements = cosign.attested(key, kind)
    except CosignError as exc:
        raise NotTrusted(f"{cosign.reference} has no signed {what}: {exc}") from exc
    about = [s["predicate"] for s in statements if digest in _subjects(s)]
    if not about:
        raise NotTrusted(f"the signed {what} beside {cosign.reference} is about another image")
    return about


def _subjects(statement: Mapping[str, Any]) -> set[str]:
    return {subject.get("digest", {}).get("sha256", "") for subject in statement["subject"]}


def _read(predicate: Mapping[str, Any]) -> Provenance:
    try:
        return Provenance.from_predicate(predicate)
    except ProvenanceError as exc:
        raise NotTrusted(f"the signed provenance ({PREDICATE_TYPE}) is not ours: {exc}") from exc


def _objection(made: Provenance, bills: set[str], expected: Expectation) -> str | None:
    """The objection to this provenance, None if there is none."""
    commit = made.commit.removesuffix(DIRTY)
    if made.sbom not in bills:
        return "the signed bill of materials is not the one that the provenance names"
    if commit != made.commit and not expected.dirty:
        return f"built from {commit} with uncommitted changes: commit, build and sign anew"
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        return f"built from no commit ({made.commit}): build and sign it in a clone"
    if expected.commit not in (None, commit):
        return f"built from {commit}, expected {expected.commit}"
    if expected.builder and not made.builder.startswith(expected.builder):
        return f"built by {made.builder}, and only {expected.builder}… may build releases"
    if expected.target != made.target:
        return f"is {made.target}, expected {expected.target}"
    version = made.model.version if made.model else None
    if expected.model_version not in (None, version):
        return f"holds model {version}, expected {expected.model_version}"
    return None
