"""common/model/signature.py: OpenSSF's signatures of model files, beside its own program."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from common.model.artifact import ArtifactError
from common.model.signature import (
    PublicKey,
    SignatureError,
    bundle,
    read_verified,
    signed_bytes,
    signed_digest,
    signer,
    statement,
    verify,
)

MODEL = bytes(range(256)) * 3
CURVES: dict[str, ec.EllipticCurve] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}
HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}


def public_pem(private: ec.EllipticCurvePrivateKey) -> str:
    return (
        private.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def private_pem(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def signed(
    private: ec.EllipticCurvePrivateKey, model: bytes = MODEL, payload: bytes | None = None
) -> bytes:
    """A bundle of that key over a statement, by itself the right one."""
    key = PublicKey.read(public_pem(private))
    payload = statement(model, "model.onnx") if payload is None else payload
    made = private.sign(signed_bytes(payload), ec.ECDSA(HASHES[key.digest]))
    return bundle(payload, made, key)


PRIVATE = ec.generate_private_key(ec.SECP256R1())
KEY = PublicKey.read(public_pem(PRIVATE))
SIGNED = signed(PRIVATE)


@pytest.fixture(scope="module")
def official() -> Callable[..., None]:
    """The program `model_signing`, which raises SystemExit where it is not content."""
    from model_signing._cli import main

    def run(*arguments: str | Path) -> None:
        main.main([str(word) for word in arguments], standalone_mode=False)

    return run


@pytest.mark.parametrize("curve", CURVES)
def test_a_signature_of_the_official_program_verifies(
    curve: str, tmp_path: Path, official: Callable[..., None]
) -> None:
    private = ec.generate_private_key(CURVES[curve])
    model, key = tmp_path / "model.onnx", tmp_path / "key"
    model.write_bytes(MODEL)
    key.write_bytes(private_pem(private))
    made = tmp_path / "model.onnx.sig"
    official("sign", "key", model, "--signature", made, "--private_key", key)
    assert read_verified(model, public_pem(private)) == MODEL
    model.write_bytes(MODEL + b"!")
    with pytest.raises(SignatureError, match=hashlib.sha256(MODEL).hexdigest()):
        read_verified(model, public_pem(private))


@pytest.mark.parametrize("curve", CURVES)
def test_the_official_program_verifies_ours(
    curve: str, tmp_path: Path, official: Callable[..., None]
) -> None:
    private = ec.generate_private_key(CURVES[curve])
    model, public = tmp_path / "champion.onnx", tmp_path / "key.pub"
    model.write_bytes(MODEL)
    public.write_text(public_pem(private))
    made = tmp_path / "any.sig"
    made.write_bytes(signed(private))
    official("verify", "key", model, "--signature", made, "--public_key", public)
    model.write_bytes(MODEL + b"!")
    with pytest.raises(SystemExit):
        official("verify", "key", model, "--signature", made, "--public_key", public)


def test_a_signed_model_passes() -> None:
    verify(MODEL, SIGNED, KEY)
    assert signer(SIGNED) == KEY.fingerprint
    assert signed_digest(statement(MODEL, "any name")) == hashlib.sha256(MODEL).hexdigest()


@given(place=st.integers(0, len(SIGNED) - 1), bits=st.integers(1, 255))
@settings(max_examples=400, deadline=None)
def test_any_other_byte_in_the_signature_is_refused(place: int, bits: int) -> None:
    damaged = bytearray(SIGNED)
    damaged[place] ^= bits
    with pytest.raises(SignatureError):
        verify(MODEL, bytes(damaged), KEY)


@settings(deadline=None)
@given(place=st.integers(0, len(MODEL) - 1), bits=st.integers(1, 255))
def test_any_other_byte_in_the_model_is_refused(place: int, bits: int) -> None:
    damaged = bytearray(MODEL)
    damaged[place] ^= bits
    with pytest.raises(SignatureError, match=hashlib.sha256(damaged).hexdigest()):
        verify(bytes(damaged), SIGNED, KEY)


@settings(deadline=None)
@given(data=st.binary(max_size=300))
def test_what_is_no_bundle_is_refused(data: bytes) -> None:
    for given_ in (data, SIGNED[: len(data)], SIGNED + data + b" "):
        with pytest.raises(SignatureError):
            verify(MODEL, given_, KEY)


def test_another_key_of_the_same_kind_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    theirs = PublicKey.read(public_pem(other)).fingerprint[:12]
    with pytest.raises(SignatureError, match=f"{theirs}.*{KEY.fingerprint[:12]}"):
        verify(MODEL, signed(other), KEY)
    forged = bundle(
        statement(MODEL, "model.onnx"),
        other.sign(signed_bytes(statement(MODEL, "model.onnx")), ec.ECDSA(hashes.SHA256())),
        KEY,  # it says that it is of ours
    )
    with pytest.raises(SignatureError, match=KEY.fingerprint[:12]):
        verify(MODEL, forged, KEY)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"in-toto.io/Statement/v1", b"in-toto.io/Statement/v2"),
        (b"model_signing/signature", b"somebody/else"),
        (b'"files"', b'"shards"'),
        (b'"name": "."', b'"name": "a"'),
        (b'"algorithm": "sha256"', b'"algorithm": "blake2b"'),
        (b'"subject": [{', b'"subject": [{}, {'),
        (b'"digest"', b'"digset"'),
    ],
)
def test_statements_about_anything_but_this_file_are_refused(old: bytes, new: bytes) -> None:
    payload = statement(MODEL, "model.onnx")
    assert old in payload
    with pytest.raises(SignatureError):
        verify(MODEL, signed(PRIVATE, payload=payload.replace(old, new)), KEY)


def test_a_missing_signature_is_told_apart_from_a_missing_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_verified(tmp_path / "model.onnx", KEY.pem)
    (tmp_path / "model.onnx").write_bytes(MODEL)
    with pytest.raises(SignatureError, match=r"model\.onnx\.sig"):
        read_verified(tmp_path / "model.onnx", KEY.pem)
    assert read_verified(tmp_path / "model.onnx", "") == MODEL
    assert issubclass(SignatureError, ArtifactError)


def test_a_key_is_read_from_its_file_and_written_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "model.pub"
    path.write_text(public_pem(PRIVATE))
    assert PublicKey.find(str(path)) == PublicKey.find(public_pem(PRIVATE)) == KEY
    assert KEY.pem == public_pem(PRIVATE)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no key",
        private_pem(PRIVATE).decode(),
        public_pem(ec.generate_private_key(ec.SECP256K1())),
        public_pem(PRIVATE).replace("M", "*"),
        public_pem(PRIVATE) * 2,
    ],
)
def test_what_is_no_public_key_of_the_format_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(SignatureError):
        PublicKey.read(text)
    (tmp_path / "model.pub").write_text(text)
    with pytest.raises(SignatureError, match=r"model\.pub"):
        PublicKey.find(str(tmp_path / "model.pub"))
    with pytest.raises(SignatureError, match="nothing"):
        PublicKey.find(str(tmp_path / "nothing"))


def test_a_point_that_is_not_on_the_curve_verifies_nothing() -> None:
    der = KEY.der[:-1] + bytes([KEY.der[-1] ^ 1])
    assert not PublicKey(der, "sha256").holds(b"message", b"signature")
