"""Signing and checking with the real cosign, against a real registry."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.programs import require_program
from infra.supply_chain.provenance import WATCHER
from infra.supply_chain.signature import (
    Cosign,
    CosignError,
    Expectation,
    NotTrusted,
    bill_digest,
    generate_keys,
    sign,
    verify,
)
from tests.infra.supply_chain.made import BILL, MODEL, made
from tests.infra.supply_chain.pushing import push
from tests.tools.image.registry import registry

pytestmark = pytest.mark.usefixtures("_cosign")
GOOD = made(bill_digest(BILL))


@pytest.fixture(scope="session")
def _cosign() -> None:
    require_program("cosign")


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as server:
        yield server.address


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return generate_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def image(address: str, tmp_path: Path) -> str:
    """An image that nothing was said about yet."""
    return push(address, tmp_path, tmp_path.name)


@pytest.fixture(scope="session")
def signed(address: str, keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image as it should be, which tests leave as it is."""
    reference = push(address, tmp_path_factory.mktemp("image"), "signed")
    sign(reference, str(keys[0]), GOOD, BILL, insecure=True)
    return reference


def test_what_was_signed_is_trusted_and_tells_where_it_comes_from(
    signed: str, keys: tuple[Path, Path]
) -> None:
    assert verify(signed, keys[1], insecure=True) == GOOD


def test_an_unsigned_image_is_refused(image: str, keys: tuple[Path, Path]) -> None:
    with pytest.raises(
        NotTrusted, match=r"has no signature of the holder of .*no signatures found"
    ):
        verify(image, keys[1], insecure=True)


def test_the_signature_of_another_key_is_refused(
    image: str, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    stranger, _ = generate_keys(tmp_path, "stranger")
    sign(image, str(stranger), GOOD, BILL, insecure=True)
    with pytest.raises(NotTrusted, match="has no signature of the holder of"):
        verify(image, keys[1], insecure=True)


def test_another_image_under_the_signed_name_is_refused(
    signed: str, keys: tuple[Path, Path], address: str, tmp_path: Path
) -> None:
    tampered = push(address, tmp_path, f"{tmp_path.name}-tampered")
    assert tampered.rpartition("@")[0] == signed.rpartition("@")[0]
    with pytest.raises(NotTrusted, match="no signatures found"):
        verify(tampered, keys[1], insecure=True)


def test_signatures_copied_to_another_image_are_refused(
    signed: str, keys: tuple[Path, Path], address: str, tmp_path: Path
) -> None:
    """Whoever may write to the registry can move them, which must not help."""
    tampered = push(address, tmp_path, f"{tmp_path.name}-tampered")
    crane = [str(require_program("crane")), "copy", "--insecure"]
    name = signed.partition("@")[0]
    source, target = (f"{name}:sha256-{i.rpartition(':')[2]}" for i in (signed, tampered))
    subprocess.run([*crane, source, target], check=True, capture_output=True)
    with pytest.raises(NotTrusted, match="has no signature of the holder of"):
        verify(tampered, keys[1], insecure=True)


def test_a_signature_without_provenance_is_refused(image: str, keys: tuple[Path, Path]) -> None:
    Cosign(image, insecure=True).sign(str(keys[0]))
    with pytest.raises(NotTrusted, match="has no signed provenance"):
        verify(image, keys[1], insecure=True)


def test_provenance_without_a_bill_of_materials_is_refused(
    image: str, keys: tuple[Path, Path]
) -> None:
    cosign = Cosign(image, insecure=True)
    cosign.attest(str(keys[0]), "slsaprovenance1", GOOD.to_predicate())
    cosign.sign(str(keys[0]))
    with pytest.raises(NotTrusted, match="has no signed bill of materials"):
        verify(image, keys[1], insecure=True)


def test_another_bill_than_the_stated_one_is_refused(image: str, keys: tuple[Path, Path]) -> None:
    cosign, other = Cosign(image, insecure=True), BILL | {"version": 2}
    cosign.attest(str(keys[0]), "slsaprovenance1", GOOD.to_predicate())
    cosign.attest(str(keys[0]), "cyclonedx", other)
    cosign.sign(str(keys[0]))
    with pytest.raises(NotTrusted, match="not the one that the provenance names"):
        verify(image, keys[1], insecure=True)


@pytest.mark.parametrize(
    ("expected", "reason"),
    [
        (Expectation(commit="9" * 40), "built from 1+, expected 9+"),
        (Expectation(model_version="0" * 64), "holds model a+, expected 0+"),
        (Expectation(builder="https://ci.invalid/"), "built by urn:kiln:builder:local"),
    ],
)
def test_what_was_built_from_something_else_is_refused(
    signed: str, keys: tuple[Path, Path], expected: Expectation, reason: str
) -> None:
    verify(signed, keys[1], Expectation("urn:kiln:", "1" * 40, MODEL.version), insecure=True)
    with pytest.raises(NotTrusted, match=reason):
        verify(signed, keys[1], expected, insecure=True)


def test_the_watchers_image_is_no_service_and_a_service_is_no_watcher(
    image: str, signed: str, keys: tuple[Path, Path]
) -> None:
    """One key signs both, and a release moves traffic to what it is given."""
    watcher = replace(GOOD, model=None, target=WATCHER)
    sign(image, str(keys[0]), watcher, BILL, insecure=True)
    assert verify(image, keys[1], Expectation(target=WATCHER), insecure=True) == watcher
    with pytest.raises(NotTrusted, match="is //infra:watch_image, expected //serve:image"):
        verify(image, keys[1], insecure=True)
    with pytest.raises(NotTrusted, match="is //serve:image, expected //infra:watch_image"):
        verify(signed, keys[1], Expectation(target=WATCHER), insecure=True)


def test_uncommitted_changes_are_trusted_only_on_request(
    image: str, keys: tuple[Path, Path]
) -> None:
    dirty = made(bill_digest(BILL), commit="1" * 40 + "-dirty")
    sign(image, str(keys[0]), dirty, BILL, insecure=True)
    with pytest.raises(NotTrusted, match="uncommitted changes"):
        verify(image, keys[1], insecure=True)
    assert verify(image, keys[1], Expectation(dirty=True), insecure=True) == dirty


def test_a_second_statement_about_the_same_bytes_counts_too(
    image: str, keys: tuple[Path, Path]
) -> None:
    later = made(bill_digest(BILL), commit="8" * 40)
    for one in (GOOD, later):
        sign(image, str(keys[0]), one, BILL, insecure=True)
    for one in (GOOD, later):
        assert verify(image, keys[1], Expectation(commit=one.commit), insecure=True) == one


def test_a_tag_is_no_reference(address: str, keys: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="expected registry/path@sha256"):
        verify(f"{address}/kiln:latest", keys[1], insecure=True)


def test_a_missing_key_file_says_so(image: str, tmp_path: Path) -> None:
    with pytest.raises(NotTrusted, match="no public key at"):
        verify(image, tmp_path / "none.pub", insecure=True)


def test_a_registry_out_of_reach_is_not_trust(keys: tuple[Path, Path]) -> None:
    with pytest.raises(NotTrusted, match="connection refused"):
        verify(f"127.0.0.1:1/kiln@sha256:{'0' * 64}", keys[1], insecure=True)


def test_a_wrong_password_signs_nothing(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "right")
    private, public = generate_keys(tmp_path)
    monkeypatch.setenv("COSIGN_PASSWORD", "wrong")
    with pytest.raises(CosignError, match="decrypt"):
        sign(image, str(private), GOOD, BILL, insecure=True)
    with pytest.raises(NotTrusted):
        verify(image, public, insecure=True)
