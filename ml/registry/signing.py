"""Signatures of registered models in OpenSSF's format, by a key in a file or in AWS KMS.

The envelope is built here, since the package model-signing does not support KMS; its program
verifies our signatures, and ours verifies its own. Registration signs if a key is given
(KILN_SIGNING_KEY), and promotion requires a signature if a public key is given (KILN_MODEL_KEY).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import user_path, write_whole
from common.model.signature import (
    PublicKey,
    SignatureError,
    bundle,
    signed_bytes,
    statement,
    verify,
)
from ml.registry.ledger import RegistryError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from ml.registry.registry import Registry

KMS = "awskms:///"  # prefix of a KMS key, as in cosign: an id, an ARN, or alias/NAME follows
PRIVATE, PUBLIC = "KILN_SIGNING_KEY", "KILN_MODEL_KEY"
PASSWORD = "KILN_SIGNING_PASSWORD"  # pragma: allowlist secret: a variable's name


@dataclass(frozen=True)
class Signer:
    """A private key: its public key, and a function that signs a message with ECDSA in DER."""

    key: PublicKey
    sign: Callable[[bytes], bytes]

    def __call__(self, model: bytes) -> bytes:
        """The signature of a model file."""
        payload = statement(model, "model.onnx")
        return bundle(payload, self.sign(signed_bytes(payload)), self.key)

    @classmethod
    def open(cls, key: str) -> Signer:
        """Opens a key in a PEM file (decrypted with KILN_SIGNING_PASSWORD) or in AWS KMS.

        Raises:
            RegistryError: it cannot be used.
        """
        return _kms(key) if key.startswith(KMS) else _file(user_path(key))


def sign(registry: Registry, version: str, signer: Signer) -> bool:
    """Signs a registered version; false if the key has signed it before."""
    if signer.key.fingerprint in registry.signatures.of(version):
        return False
    signature = signer(registry.versions.model(version))
    return registry.signatures.add(version, signature, signer.key.fingerprint)


def check(registry: Registry, version: str, key: PublicKey, model: bytes | None = None) -> bytes:
    """The verified signature of a registered version by that key.

    Args:
        model: the version's bytes, if already read.

    Raises:
        SignatureError: it is missing or invalid.
    """
    found = registry.signatures.of(version)
    if key.fingerprint not in found:
        others = ", ".join(f"{name[:12]}…" for name in found) or "none"
        raise SignatureError(f"no signature of the key {key.fingerprint[:12]}…; there is {others}")
    signature = found[key.fingerprint]
    verify(registry.versions.model(version) if model is None else model, signature, key)
    return signature


def trusted_key(given: str | None = None) -> PublicKey | None:
    """The trusted key: the given one, else KILN_MODEL_KEY's, if any.

    Args:
        given: a public key in PEM, the path of one, or ``awskms:///…``.

    Raises:
        RegistryError: it is not a public key.
    """
    text = given or os.environ.get(PUBLIC, "")
    if not text:
        return None
    try:
        if text.startswith(KMS):
            return Signer.open(text).key
        return PublicKey.find(text if "-----BEGIN" in text else str(user_path(text)))
    except SignatureError as exc:
        raise RegistryError(str(exc)) from exc


def new_key(folder: Path) -> tuple[Path, Path]:
    """A new key pair on P-256: private key (encrypted with KILN_SIGNING_PASSWORD) and public key.

    Raises:
        RegistryError: a key exists already, or the folder cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private, public = folder / "model.key", folder / "model.pub"
    if taken := [path for path in (private, public) if path.exists()]:
        raise RegistryError(f"{taken[0]} exists: choose another folder, keys are never overwritten")
    password = os.environ.get(PASSWORD, "").encode()
    encryption = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    key = ec.generate_private_key(ec.SECP256R1())
    data = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        write_whole(public, _public(key).pem)
    except OSError as exc:
        raise RegistryError(f"{exc.filename} cannot be written: {exc.strerror}") from exc
    return private, public


def _public(private: EllipticCurvePrivateKey) -> PublicKey:
    from cryptography.hazmat.primitives import serialization

    pem = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return PublicKey.read(pem.decode())


def _file(path: Path) -> Signer:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        password = os.environ.get(PASSWORD, "").encode() or None
        private = load_pem_private_key(path.read_bytes(), password)
    except OSError as exc:
        raise RegistryError(f"the key {path} cannot be read: {exc.strerror}") from exc
    except (ValueError, TypeError) as exc:
        raise RegistryError(
            f"{path} is no private key that {PASSWORD} opens: expected PEM as `new-key` writes it; "
            f"a key of cosign's is not, one of AWS KMS serves both ({exc})"
        ) from exc
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise RegistryError(f"{path} is not an elliptic-curve key: `new-key` makes one")
    try:
        key = _public(private)
    except SignatureError as exc:
        raise RegistryError(f"{path}: {exc}") from exc
    digest = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
    algorithm = ec.ECDSA(digest[key.digest])
    return Signer(key, lambda message: private.sign(message, algorithm))


def _kms(key: str) -> Signer:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    name = key.removeprefix(KMS)
    client: Any = boto3.client("kms")

    def call(ask: Callable[..., Any], **arguments: Any) -> Any:
        try:
            return ask(KeyId=name, **arguments)
        except (BotoCoreError, ClientError) as exc:
            raise RegistryError(f"{key}: AWS KMS does not sign with it: {exc}") from exc

    try:
        public = PublicKey.from_der(call(client.get_public_key)["PublicKey"])
    except SignatureError as exc:
        raise RegistryError(f"{key}: {exc}") from exc

    def sign(message: bytes) -> bytes:
        # KMS signs messages of up to 4,096 bytes; a statement has about 600.
        algorithm = f"ECDSA_SHA_{public.digest.removeprefix('sha')}"
        made = call(client.sign, Message=message, MessageType="RAW", SigningAlgorithm=algorithm)
        return bytes(made["Signature"])

    return Signer(public, sign)
