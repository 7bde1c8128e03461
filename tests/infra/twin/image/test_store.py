"""The built image through a real registry, with another model, and as processes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.oci import (
    Entry,
    add_layer,
    empty_image,
    manifest_digest,
    read_image,
    with_parents,
    write_image,
    write_layer,
)
from common.programs import find_program
from infra.twin.image.container import (
    MODEL,
    DamagedImage,
    ImageStore,
    NoModel,
    Registry,
    registry,
    with_model,
)
from tests.serve.image import built

pytestmark = built.needs_image

FP32 = Path(os.environ.get("FP32", "ml/bundled/model.onnx"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


def push(server: Registry, layout: Path, digest: str) -> None:
    command = [str(find_program("crane")), "--insecure", "push", str(layout)]
    subprocess.run([*command, f"{server.address}/kiln@{digest}"], check=True)


def test_an_image_with_another_model_differs_in_that_layer_alone(
    server: Registry, tmp_path: Path
) -> None:
    digest = with_model(built.LAYOUT, FP32, tmp_path / "fp32")
    before, after = (
        [layer["digest"] for layer in read_image(layout).manifest["layers"]]
        for layout in (built.LAYOUT, tmp_path / "fp32")
    )
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    push(server, built.LAYOUT, manifest_digest(built.LAYOUT))
    push(server, tmp_path / "fp32", digest)
    (tmp_path / "roots").mkdir()
    store = ImageStore(tmp_path / "roots", server, "kiln")
    other, first = store.root(digest), store.root(manifest_digest(built.LAYOUT))
    assert (other.folder / MODEL).read_bytes() == FP32.read_bytes()
    assert (first.folder / MODEL).read_bytes() != FP32.read_bytes()
    shared = "usr/bin/python3.11"
    assert (other.folder / shared).samefile(first.folder / shared)
    assert store.root(digest) is other


def test_an_image_starts_as_a_process(server: Registry, tmp_path: Path) -> None:
    push(server, built.LAYOUT, manifest_digest(built.LAYOUT))
    store = ImageStore(tmp_path, server, "kiln")
    process = store.launch(manifest_digest(built.LAYOUT), {"KILN_PORT": "http"})
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert b"KILN_PORT is 'http', expected a whole number" in output


def test_a_manifest_that_is_another_is_refused(server: Registry, tmp_path: Path) -> None:
    class Liar(Registry):
        def manifest(self, repository: str, reference: str) -> tuple[str, bytes]:
            return reference, b"{}"

    with pytest.raises(DamagedImage):
        ImageStore(tmp_path, Liar(server.address), "kiln").root(manifest_digest(built.LAYOUT))


def test_an_image_without_a_model_is_refused(tmp_path: Path) -> None:
    layout, tar = tmp_path / "layout", tmp_path / "layer.tar.gz"
    write_layer(with_parents([Entry("etc/file", data=b"x")]), tar)
    write_image(layout, add_layer(layout, empty_image("linux", "amd64"), tar, "test"))
    with pytest.raises(NoModel):
        with_model(layout, FP32, tmp_path / "target")
