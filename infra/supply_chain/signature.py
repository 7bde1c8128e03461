"""Decides whether an image may be deployed: signed by us, with matching provenance.

    made = verify("…/kiln@sha256:…", key="cosign.pub")    # NotTrusted says why not
    made.commit, made.model.version, made.model.dataset_digest

It proves that the holder of the private key states that this digest was built from that commit,
lock, data and configuration, not that the statement is true; see docs/threat-model.md.

cosign runs with our own keys and without a transparency log, which proves to third parties when
something was signed. Our images are private; the key, a file or an AWS KMS key
(``awskms:///alias/…``), proves who signed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.programs import find_program
from infra.supply_chain.provenance import (
    DIRTY,
    PREDICATE_TYPE,
    SERVICE,
    Provenance,
    ProvenanceError,
)
from infra.supply_chain.registry import registry_login

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


_TIMEOUT_S = 120
# Debian's cosign prints a summary, then its reasons after these words.
_ERROR = "Error: "


class CosignError(Exception):
    """cosign failed; the message has its reason."""


@dataclass(frozen=True)
class Cosign:
    """The program, for one image.

    Attributes:
        reference: ``registry/path@sha256:…``.
        insecure: a registry without TLS.
    """

    reference: str
    insecure: bool = False

    def sign(self, key: str) -> None:
        """Puts a signature beside the image.

        Raises:
            CosignError: the key cannot be used, or the registry refuses the upload.
        """
        self._run(["sign", *_SIGNING, "--key", key])

    def attest(self, key: str, kind: str, predicate: Mapping[str, Any]) -> None:
        """Puts a signed statement about the image beside it.

        Args:
            kind: a predicate type as a URI, or cosign's short name for one.

        Raises:
            CosignError: as `sign`.
        """
        with tempfile.TemporaryDirectory(prefix="kiln-") as folder:
            file = Path(folder, "predicate.json")
            file.write_text(json.dumps(predicate), encoding="utf-8")
            command = ["attest", *_SIGNING, "--key", key, "--type", kind, "--predicate", str(file)]
            self._run(command)

    def verify(self, key: str) -> None:
        """Checks the signature.

        Raises:
            CosignError: the image has no signature by this key.
        """
        self._run(["verify", *_VERIFYING, "--key", key])

    def attested(self, key: str, kind: str) -> list[dict[str, Any]]:
        """The in-toto statements of a predicate type that the key's owner signed about this image.

        Raises:
            CosignError: there is none.
        """
        output = self._run(["verify-attestation", *_VERIFYING, "--key", key, "--type", kind])
        envelopes = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        return [json.loads(base64.b64decode(envelope["payload"])) for envelope in envelopes]

    def _run(self, command: Sequence[str]) -> str:
        plain = ["--allow-http-registry", "--allow-insecure-registry"] if self.insecure else []
        with registry_login(self.reference.partition("/")[0]) as variables:
            return _cosign([*command, *plain, self.reference], variables)


_SIGNING = ("--yes", "--tlog-upload=false", "--use-signing-config=false")
_VERIFYING = ("--insecure-ignore-tlog=true",)


def generate_keys(folder: Path, name: str = "cosign") -> tuple[Path, Path]:
    """Generates a key pair: private key (encrypted with ``COSIGN_PASSWORD``) and public key.

    Raises:
        CosignError: the files cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prefix = folder.absolute() / name
    _cosign(["generate-key-pair", "--output-key-prefix", str(prefix)], {})
    return prefix.with_name(f"{name}.key"), prefix.with_name(f"{name}.pub")


def _cosign(arguments: Sequence[str], variables: Mapping[str, str]) -> str:
    command = [str(find_program("cosign")), *arguments]
    with _home() as home:
        # Without a password, cosign would prompt on the terminal and hang scripts.
        environment = {"COSIGN_PASSWORD": "", **os.environ, **home, **variables}
        try:
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as exc:
            raise CosignError(f"cosign {arguments[0]} took more than {_TIMEOUT_S} s") from exc
    if done.returncode:
        raise CosignError(_reason(done.stderr))
    return done.stdout


@contextmanager
def _home() -> Iterator[dict[str, str]]:
    """cosign needs a home folder for its cache, which builds and tests may lack."""
    if os.environ.get("HOME") and os.access(os.environ["HOME"], os.W_OK):
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="kiln-") as folder:
        yield {"HOME": folder}


def _reason(text: str) -> str:
    _, found, reason = text.partition(_ERROR)
    lines = (reason if found else text).strip().splitlines()
    return lines[0] if lines else "cosign said nothing"
