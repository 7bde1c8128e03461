"""Signatures of model files in OpenSSF's format, as `model_signing sign key` writes them.

    verify(model, signature, PublicKey.read(pem))    # SignatureError says what is wrong

A signature is a JSON file beside the model, `model.onnx.sig`: a Sigstore bundle that holds a DSSE
envelope around an in-toto statement, which names the SHA-256 of the file. OpenSSL's libcrypto,
which Python's own `ssl` needs, checks it: the serving image carries no package for that.

Sources: OpenSSF Model Signing 1.0, https://github.com/sigstore/model-transparency; DSSE 1.0,
https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md; RFC 5480 for keys.
"""

import base64
import ctypes
import hashlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from common.model.model_file import ArtifactError

SUFFIX = ".sig"  # suffix of the signature file, after the model's full name
_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
_PEM = re.compile(
    r"-----BEGIN PUBLIC KEY-----\s+([A-Za-z0-9+/=\s]+?)\s+-----END PUBLIC KEY-----\s*"
)
# DER prefix of a key on each of the format's curves (P-256, P-384, P-521), and its hash.
_CURVES = {
    bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004"): "sha256",
    bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004"): "sha384",
    bytes.fromhex("30819b301006072a8648ce3d020106052b810400230381860004"): "sha512",
}


class SignatureError(ArtifactError):
    """The model is not signed by the trusted key; the message says what is wrong."""


@dataclass(frozen=True)
class PublicKey:
    """An elliptic-curve key.

    Attributes:
        der: its SubjectPublicKeyInfo.
        digest: the hash that its signatures are made over, as hashlib names it.
    """

    der: bytes
    digest: str

    @classmethod
    def read(cls, pem: str) -> "PublicKey":
        """The key in a PEM text.

        Raises:
            SignatureError: it is not a public key on one of the three curves.
        """
        found = _PEM.fullmatch(pem.strip() + "\n")
        return cls.from_der(_decoded("".join(found[1].split()), "the key") if found else b"")

    @classmethod
    def from_der(cls, der: bytes) -> "PublicKey":
        """The key in a SubjectPublicKeyInfo; SignatureError as for `read`."""
        for head, digest in _CURVES.items():
            if der.startswith(head):
                return cls(der, digest)
        raise SignatureError(
            "not a public key: expected PEM (BEGIN PUBLIC KEY) of the curve P-256, P-384 or "
            "P-521, as `//ml:registry -- new-key` writes it"
        )

    @classmethod
    def find(cls, text: str) -> "PublicKey":
        """Reads a configured key: PEM text, or the path of its file.

        Raises:
            SignatureError: there is none.
        """
        if "-----BEGIN" in text:
            return cls.read(text)
        try:
            return cls.read(Path(text).read_text("ascii"))
        except (OSError, ValueError) as exc:
            if isinstance(exc, SignatureError):
                raise SignatureError(f"{text}: {exc}") from exc
            raise SignatureError(f"cannot read the public key {text}: {exc}") from exc

    @property
    def pem(self) -> str:
        """The key as PEM, its lines of 64 characters."""
        lines = re.findall(".{1,64}", base64.b64encode(self.der).decode())
        return "\n".join(["-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the PEM: what a bundle names the key by."""
        return hashlib.sha256(self.pem.encode()).hexdigest()

    def holds(self, message: bytes, signature: bytes) -> bool:
        """Whether the key's holder signed the message; `signature` is DER (ECDSA).

        Raises:
            SignatureError: this machine has no OpenSSL 3 to check it.
        """
        crypto = _libcrypto()
        start = ctypes.c_char_p(self.der)
        key = crypto.d2i_PUBKEY(None, ctypes.byref(start), len(self.der))
        context = crypto.EVP_MD_CTX_new()
        try:
            digest = crypto.EVP_get_digestbyname(self.digest.encode())
            return bool(
                key
                and crypto.EVP_DigestVerifyInit(context, None, digest, None, key) == 1
                and crypto.EVP_DigestVerify(
                    context, signature, len(signature), message, len(message)
                )
                == 1
            )
        finally:
            crypto.EVP_MD_CTX_free(context)
            crypto.EVP_PKEY_free(key)


@cache
def _libcrypto() -> ctypes.CDLL:
    for name in ("libcrypto.so.3", "libcrypto.3.dylib"):
        with suppress(OSError):
            return _declared(ctypes.CDLL(name))
    raise SignatureError("signatures cannot be checked: this machine has no libcrypto of OpenSSL 3")


def _declared(crypto: ctypes.CDLL) -> ctypes.CDLL:
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    to_text = ctypes.POINTER(text)
    for name, result, arguments in (
        ("d2i_PUBKEY", pointer, [pointer, to_text, ctypes.c_long]),
        ("EVP_PKEY_free", None, [pointer]),
        ("EVP_MD_CTX_new", pointer, []),
        ("EVP_MD_CTX_free", None, [pointer]),
        ("EVP_get_digestbyname", pointer, [text]),
        ("EVP_DigestVerifyInit", ctypes.c_int, [pointer] * 5),
        ("EVP_DigestVerify", ctypes.c_int, [pointer, text, size, text, size]),
    ):
        function = getattr(crypto, name)
        function.restype, function.argtypes = result, arguments
    return crypto


def statement(model: bytes, name: str) -> bytes:
    """The signed in-toto statement about a model file, as JSON."""
    digest = hashlib.sha256(model)
    predicate = {
        "serialization": {
            "method": "files",
            "hash_type": "sha256",
            "allow_symlinks": False,
            "ignore_paths": [],
        },
        "resources": [{"name": ".", "algorithm": "sha256", "digest": digest.hexdigest()}],
    }
    whole = hashlib.sha256(digest.digest()).hexdigest()
    document = {
        "_type": _STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": whole}}],
        "predicateType": _PREDICATE,
        "predicate": predicate,
    }
    return json.dumps(document).encode()


def signed_bytes(payload: bytes) -> bytes:
    """The bytes that are signed: DSSE's pre-authentication encoding of a statement."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)


def bundle(payload: bytes, signature: bytes, key: PublicKey) -> bytes:
    """The signature file: a Sigstore bundle of a statement and the signature of its `signed_bytes`.

    Byte for byte as model-signing 1.1 writes it.
    """
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": _PAYLOAD,
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
    }
    material = {"publicKey": {"hint": key.fingerprint}, "tlogEntries": []}
    document = {"mediaType": _BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope}
    return json.dumps(document, separators=(",", ":")).encode()


def verify(model: bytes, signature: bytes, key: PublicKey) -> None:
    """Passes if the key's holder signed exactly this file.

    The bundle must be what a signer writes, byte for byte, although the key signs only the
    statement within: so a changed byte of either file is noticed, whether it matters or not.

    Raises:
        SignatureError: says what is wrong.
    """
    payload, made = _opened(signature, key)
    if not key.holds(signed_bytes(payload), made):
        raise SignatureError(f"the signature was not made by the key {key.fingerprint[:12]}…")
    stated = signed_digest(payload)
    if (found := hashlib.sha256(model).hexdigest()) != stated:
        raise SignatureError(f"the signature is of another file: SHA-256 {stated}, not {found}")


def signer(signature: bytes) -> str:
    """The fingerprint of the key that a signature claims, unchecked.

    Raises:
        SignatureError: it is not a signature.
    """
    try:
        return str(json.loads(signature)["verificationMaterial"]["publicKey"]["hint"])
    except (ValueError, KeyError, TypeError) as exc:
        raise SignatureError(f"not a Sigstore bundle with a public key: {exc!r}") from exc


def read_verified(path: Path, key: str) -> bytes:
    """The model at `path`, verified by the signature file beside it.

    Args:
        key: as for `PublicKey.find`; empty turns verification off.

    Raises:
        OSError: the model cannot be read.
        SignatureError: it has no signature of that key.
    """
    model = path.read_bytes()
    if key:
        beside = path.with_name(path.name + SUFFIX)
        try:
            signature = beside.read_bytes()
        except OSError as exc:
            raise SignatureError(f"it has no signature: {beside}: {exc.strerror}") from exc
        verify(model, signature, PublicKey.find(key))
    return model


def _opened(signature: bytes, key: PublicKey) -> tuple[bytes, bytes]:
    """Statement and signature of a bundle whose other members are as expected."""
    try:
        document = json.loads(signature)
        material, envelope = document["verificationMaterial"], document["dsseEnvelope"]
        (made,) = envelope["signatures"]
        payload, sig = envelope["payload"], made["sig"]
        hint = material["publicKey"]["hint"]
    except (ValueError, KeyError, TypeError) as exc:
        raise SignatureError(f"not a Sigstore bundle with a public key: {exc!r}") from exc
    if hint != key.fingerprint:
        raise SignatureError(
            f"signed with the key {str(hint)[:12]}…, and {key.fingerprint[:12]}… is trusted"
        )
    decoded = _decoded(payload, "its payload"), _decoded(sig, "its signature")
    if bundle(*decoded, key) != signature:
        raise SignatureError("the bundle is not as it was written: a member or a space has changed")
    return decoded


def signed_digest(payload: bytes) -> str:
    """The SHA-256 of the model file that a statement is about.

    Raises:
        SignatureError: it is about anything else.
    """
    try:
        document = json.loads(payload)
        predicate, (subject,) = document["predicate"], document["subject"]
        (resource,) = predicate["resources"]
        digest = str(resource["digest"])
        expected = {
            "type": (document["_type"], _STATEMENT),
            "predicate type": (document["predicateType"], _PREDICATE),
            "method": (predicate["serialization"]["method"], "files"),
            "algorithm": (resource["algorithm"], "sha256"),
            "name of the file": (resource["name"], "."),
            "digest of all files": (
                subject["digest"]["sha256"],
                hashlib.sha256(bytes.fromhex(digest)).hexdigest(),
            ),
        }
    except (ValueError, KeyError, TypeError) as exc:
        raise SignatureError(f"the signed statement is not about one model file: {exc!r}") from exc
    for what, (found, wanted) in expected.items():
        if found != wanted:
            raise SignatureError(f"the signed statement's {what} is {found!r}, expected {wanted!r}")
    return digest


def _decoded(text: Any, what: str) -> bytes:
    """Decodes base64 in its canonical form."""
    try:
        data = base64.b64decode(text, validate=True)
        if base64.b64encode(data).decode() == text:
            return data
    except (ValueError, TypeError):
        pass
    raise SignatureError(f"{what} is not base64")
