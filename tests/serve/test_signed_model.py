"""A service that trusts a public key starts with a model of its owner's alone."""

import hashlib
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from common.model.artifact import ArtifactError
from common.model.signature import SUFFIX, PublicKey, bundle, signed_bytes, statement
from serve.image import verify_model
from serve.inference.model_path import model_path
from serve.inference.predictor import Predictor
from serve.server import server
from serve.settings import Settings
from tests.serve.serving import MODEL

PRIVATE = ec.generate_private_key(ec.SECP256R1())
KEY = PublicKey.read(
    PRIVATE.public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode()
)


def sign(path: Path) -> None:
    payload = statement(path.read_bytes(), path.name)
    made = PRIVATE.sign(signed_bytes(payload), ec.ECDSA(hashes.SHA256()))
    path.with_name(path.name + SUFFIX).write_bytes(bundle(payload, made, KEY))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    shutil.copy(MODEL, path)
    sign(path)
    return path


def exit_code(path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("KILN_MODEL", str(path))
    monkeypatch.setenv("KILN_MODEL_KEY", key)
    return server.main([])


def test_a_signed_model_is_served(model: Path) -> None:
    key = model.parent / "model.pub"
    key.write_text(KEY.pem)
    for given in (KEY.pem, str(key)):
        settings = Settings.from_environment({"KILN_MODEL": str(model), "KILN_MODEL_KEY": given})
        assert Predictor.load(model_path(settings), key=settings.model_key).version


def test_a_missing_signature_ends_the_start(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signature = model.with_name(model.name + SUFFIX)
    signature.unlink()
    assert exit_code(model, KEY.pem, monkeypatch) == 2
    assert str(signature) in capsys.readouterr().err
    with pytest.raises(ArtifactError, match=str(signature)):
        Predictor.load(model, key=KEY.pem)


def test_a_model_that_was_changed_or_is_of_another_key_ends_the_start(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = stranger.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()
    assert exit_code(model, pem, monkeypatch) == 2
    assert KEY.fingerprint[:12] in capsys.readouterr().err
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    assert exit_code(model, KEY.pem, monkeypatch) == 2
    assert hashlib.sha256(data).hexdigest() in capsys.readouterr().err


def test_an_image_is_built_around_a_signed_model_alone(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, output = model.parent / "model.pub", model.parent / "out" / "model.onnx.sig"
    key.write_text(KEY.pem)
    signature = model.with_name(model.name + SUFFIX)
    words = [str(model), "--signature", str(signature), "--key", str(key), "--output", str(output)]
    assert verify_model.main(words) == 0
    assert output.read_bytes() == signature.read_bytes()
    output.unlink()
    model.write_bytes(model.read_bytes()[:-1])
    assert verify_model.main(words) == 1
    assert hashlib.sha256(model.read_bytes()).hexdigest() in capsys.readouterr().err
    assert not output.exists()


def test_a_key_that_is_none_ends_the_start(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(model, "/no/model.pub", monkeypatch) == 2
    assert "/no/model.pub" in capsys.readouterr().err


def test_every_precision_in_a_folder_must_be_signed(model: Path) -> None:
    shutil.copy(MODEL, model.parent / "model.fp32.onnx")
    settings = Settings(model=model.parent, model_key=KEY.pem)
    with pytest.raises(ArtifactError, match=r"model\.fp32\.onnx"):
        model_path(settings)
