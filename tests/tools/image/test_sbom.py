"""The bill of materials of an image."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from common.oci import Entry, add_layer, empty_image, with_parents, write_image, write_layer
from tools.image import sbom

SITE = "usr/local/lib/python3.11/dist-packages"
HASHES = ["sha256:" + "ab" * 32, "sha256:" + "cd" * 32]
LOCK = (
    f"# text\nmy-package[extra]==1.0 \\\n    --hash={HASHES[0]} \\\n    --hash={HASHES[1]}\n"
    "    # via x\n"
)
FILES = [
    Entry(
        f"{SITE}/my_package-1.0.dist-info/METADATA",
        data=b"Name: My.Package\nVersion: 1.0\nLicense-Expression: MIT\n\nText",
    ),
    Entry(
        f"{SITE}/old-2.dist-info/METADATA",
        data=b"Name: old\nVersion: 2\nClassifier: License :: OSI Approved :: BSD License\n",
    ),
    Entry(
        "var/lib/dpkg/status.d/zlib1g",
        data=b"Package: zlib1g\nVersion: 1:1.2.13\nArchitecture: amd64\nSHA256: " + b"cd" * 32,
    ),
    Entry("var/lib/dpkg/status.d/zlib1g.md5sums", data=b""),
    Entry("opt/model/model.onnx", data=b"model"),
]


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layer(with_parents(FILES), tmp_path / "layer.tar.gz")
    layout = tmp_path / "image"
    image = add_layer(layout, empty_image("linux", "amd64"), tmp_path / "layer.tar.gz", "//a:b")
    write_image(layout, image)
    return layout


def written(layout: Path, output: Path) -> str:
    lock = output.with_suffix(".lock")
    lock.write_text(LOCK)
    options = {"image": layout, "lock": lock, "name": "kiln", "output": output}
    assert sbom.main([f"--{name}={value}" for name, value in options.items()]) == 0
    return output.read_text()


def test_it_keeps_to_the_published_schema(layout: Path, tmp_path: Path) -> None:
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(
        written(layout, tmp_path / "sbom.json")
    )
    assert problem is None


def test_it_lists_packages_of_python_and_debian_and_the_model(layout: Path, tmp_path: Path) -> None:
    document = json.loads(written(layout, tmp_path / "sbom.json"))
    parts = {part["name"]: part for part in document["components"]}
    assert set(parts) == {"my-package", "old", "zlib1g", "model.onnx"}
    assert parts["my-package"]["purl"] == "pkg:pypi/my-package@1.0"
    assert parts["my-package"]["licenses"] == [{"expression": "MIT"}]
    assert [p["value"] for p in parts["my-package"]["properties"][1:]] == HASHES
    assert parts["old"]["licenses"] == [{"license": {"name": "BSD License"}}]
    assert parts["zlib1g"]["purl"].startswith("pkg:deb/debian/zlib1g@1:1.2.13?arch=amd64")
    assert parts["zlib1g"]["hashes"] == [{"alg": "SHA-256", "content": "cd" * 32}]
    model = hashlib.sha256(b"model").hexdigest()
    assert parts["model.onnx"]["hashes"] == [{"alg": "SHA-256", "content": model}]


def test_it_is_of_this_very_image(layout: Path, tmp_path: Path) -> None:
    document = json.loads(written(layout, tmp_path / "sbom.json"))
    digest = json.loads((layout / "index.json").read_bytes())["manifests"][0]["digest"]
    assert document["metadata"]["component"]["version"] == digest


def test_the_same_image_has_the_same_bill(layout: Path, tmp_path: Path) -> None:
    assert written(layout, tmp_path / "one.json") == written(layout, tmp_path / "two.json")
