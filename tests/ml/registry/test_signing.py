"""ml/registry/signing.py: signed at registration, asked for before a promotion."""

import re
import stat
from pathlib import Path
from typing import Any

import boto3
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from common.model.signature import PublicKey, SignatureError, read_verified, verify
from ml.registry import signing
from ml.registry.gates import judge
from ml.registry.ledger import GateLimits, RegistryError
from ml.registry.registry import Registry, inspect
from ml.registry.signing import Signer, check, new_key, sign, trusted_key
from tests.ml.registry.artifacts import artifact
from tests.ml.registry.test_command import Terminal, terminal

__all__ = ["terminal"]  # the fixture
NO_LIMITS = GateLimits(p99_ms=1000)


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (signing.PRIVATE, signing.PUBLIC, signing.PASSWORD):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return new_key(tmp_path / "keys")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.open(str(tmp_path / "registry"), who="ada")


def test_a_registered_model_is_signed_once_by_each_key(
    url: str, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    registry = Registry.open(url, who="ada")
    version = registry.register(artifact())[0].version
    signer, key = Signer.open(str(keys[0])), PublicKey.find(str(keys[1]))
    assert (sign(registry, version, signer), sign(registry, version, signer)) == (True, False)
    assert list(registry.signatures.of(version)) == [key.fingerprint]
    verify(artifact(), check(registry, version, key), key)
    assert inspect(registry, key=key).signed == inspect(registry).signed == 1
    other = Signer.open(str(new_key(tmp_path / "others")[0]))
    with pytest.raises(SignatureError, match=key.fingerprint[:12]):
        check(registry, version, other.key)
    assert sign(registry, version, other)
    check(registry, version, other.key)


def test_a_signature_that_does_not_hold_is_damage_and_a_missing_one_is_not(
    registry: Registry, keys: tuple[Path, Path]
) -> None:
    key = PublicKey.find(str(keys[1]))
    first, second = (registry.register(artifact(w))[0].version for w in ("first", "second"))
    sign(registry, first, Signer.open(str(keys[0])))
    assert not inspect(registry, key=key).problems
    signature = registry.signatures.of(first)[key.fingerprint]
    registry.signatures.add(second, signature, key.fingerprint)
    assert not inspect(registry).problems
    (problem,) = inspect(registry, key=key).problems
    assert second in problem


def test_keys_are_for_their_owner_and_never_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(signing.PASSWORD, "open sesame")  # pragma: allowlist secret: of a test
    private, public = new_key(tmp_path)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert Signer.open(str(private)).key == PublicKey.find(str(public))
    with pytest.raises(RegistryError, match=re.escape(str(private))):
        new_key(tmp_path)
    monkeypatch.delenv(signing.PASSWORD)
    with pytest.raises(RegistryError, match=signing.PASSWORD):
        Signer.open(str(private))


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(RegistryError, match=re.escape(str(path))):
        Signer.open(str(path))
    private = rsa.generate_private_key(65537, 2048)
    for data in (
        b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n",  # pragma: allowlist secret: no key
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    ):
        path.write_bytes(data)
        with pytest.raises(RegistryError, match="new-key"):
            Signer.open(str(path))
    with pytest.raises(RegistryError, match=re.escape(str(path))):
        trusted_key(str(path))
    assert trusted_key() is None


@pytest.mark.parametrize("kind", ["ECC_NIST_P256", "ECC_NIST_P384"])
def test_a_key_of_kms_signs(kind: str, loopback_s3: None, registry: Registry) -> None:
    kms: Any = boto3.client("kms")
    made = kms.create_key(KeySpec=kind, KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    alias = f"alias/{kind}"
    kms.create_alias(AliasName=alias, TargetKeyId=made)
    version = registry.register(artifact())[0].version
    sign(registry, version, Signer.open(f"awskms:///{alias}"))
    key = trusted_key(f"awskms:///{alias}")
    assert key is not None
    check(registry, version, key)
    with pytest.raises(RegistryError, match="alias/nobody"):
        Signer.open("awskms:///alias/nobody")


def test_only_a_signed_version_is_promoted_where_a_key_is_set(terminal: Terminal) -> None:
    assert terminal.types("new-key", "keys") == 0
    key = ("--model-key", "keys/model.pub")
    version = terminal.registers(130)
    assert terminal.promotes(version, *key) == 1
    assert "signature" in terminal.output
    assert terminal.promotes(version, "--model-key", "keys/model.key") == 2
    assert terminal.types("sign", version) == 2  # with which key?
    assert terminal.asks("sign", version, "--sign-with", "keys/model.key")["new"] is True
    assert terminal.promotes(version, *key) == 0
    found = terminal.asks("explain", "champion", *key)["signatures"]
    assert list(found.values()) == [True]
    assert list(terminal.asks("explain", "champion")["signatures"].values()) == [None]
    assert terminal.asks("verify", *key)["signed"] == 1


def test_registration_signs_and_pulling_brings_the_signature(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.types("new-key", "keys")
    monkeypatch.setenv(signing.PRIVATE, "keys/model.key")
    public = (terminal.folder / "keys/model.pub").read_text()
    version = terminal.registers(130)
    pulled = terminal.folder / "pulled.onnx"
    assert terminal.types("pull", version, "-o", "pulled.onnx", "--model-key", public) == 0
    assert read_verified(pulled, public) == pulled.read_bytes()
    terminal.types("new-key", "others")
    others = ("--model-key", "others/model.pub")
    assert terminal.types("pull", version, "-o", "no.onnx", *others) == 2
    assert not (terminal.folder / "no.onnx").exists()
    capsys.readouterr()
    assert terminal.types("new-key", "--public-of", "keys/model.key") == 0
    assert capsys.readouterr().out == public


def test_the_gate_is_asked_where_there_is_a_key_alone(
    registry: Registry, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    from tests.ml.registry.runnable import Maker

    version = registry.register(Maker(tmp_path).artifact())[0].version
    key = PublicKey.find(str(keys[1]))
    names = [gate.name for gate in judge(registry, version, None, NO_LIMITS, None)]
    assert "signature" not in names
    (gate,) = (
        g
        for g in judge(registry, version, None, NO_LIMITS, None, key=key)
        if g.values == {"key": key.fingerprint}
    )
    assert not gate.passed
