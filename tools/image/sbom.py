"""Writes an image's bill of materials, CycloneDX 1.6, from its layers and the lock."""

from __future__ import annotations

import argparse
import email
import hashlib
import json
import re
import sys
import tarfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, License, LicenseExpression
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from tools.image.inspection import File, Inspected, Layer, inspect

_METADATA = re.compile(r"(?:.*/)?(?:site|dist)-packages/[^/]+\.dist-info/METADATA")
_DEBIAN = re.compile(r"var/lib/dpkg/status\.d/(?!.*\.md5sums)[^/]+")
_MODEL = re.compile(r".*\.onnx")
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path, required=True, help="layout folder")
    parser.add_argument("--lock", type=Path, required=True, help="requirements with hashes")
    parser.add_argument("--name", required=True, help="of the image")
    parser.add_argument("--output", type=Path, required=True, help="JSON to write")
    options = parser.parse_args(arguments)
    digest = json.loads((options.image / "index.json").read_bytes())["manifests"][0]["digest"]
    content = bill(inspect(options.image), options.name, digest, options.lock.read_text())
    options.output.write_text(f"{content}\n")
    return 0


def bill(image: Inspected, name: str, digest: str, lock: str) -> str:
    """The JSON document; depends only on the image and the lock.

    Args:
        image: the inspected image.
        name: the image's name.
        digest: digest of its manifest.
        lock: requirements with hashes.
    """
    components = {one.bom_ref.value: one for one in _components(image, locked_hashes(lock))}
    subject = Component(
        type=ComponentType.CONTAINER,
        bom_ref=f"{name}@{digest}",
        name=name,
        version=digest,
        hashes=[_sha256(digest.removeprefix("sha256:"))],
    )
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, digest),
        # A build time would make each bill different; use the time of all files in the image.
        metadata=BomMetaData(component=subject, timestamp=datetime.fromtimestamp(0, UTC)),
        components=components.values(),
    )
    bom.register_dependency(subject, components.values())
    document = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6)
    return document.output_as_string(indent=1)


def locked_hashes(lock: str) -> dict[str, list[str]]:
    """File hashes in the lock, by project as name==version."""
    found: dict[str, list[str]] = {}
    for entry in lock.replace("\\\n", " ").splitlines():
        if match := re.match(r"([\w.-]+)(?:\[[^]]*\])?==([^\s;]+)", entry):
            found[f"{_normal(match[1])}=={match[2]}"] = _HASH.findall(entry)
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _components(image: Inspected, hashes: Mapping[str, list[str]]) -> Iterator[Component]:
    for layer, file in image.files():
        if _METADATA.fullmatch(file.path):
            yield _python(email.message_from_bytes(file.head), layer, hashes)
        elif file.info.isreg() and _DEBIAN.fullmatch(file.path):
            yield _debian(email.message_from_bytes(file.head), layer)
        elif _MODEL.fullmatch(file.path):
            yield _model(file, layer)


def _python(metadata: Message, layer: Layer, hashes: Mapping[str, list[str]]) -> Component:
    name, version = _normal(str(metadata["Name"])), str(metadata["Version"])
    locked = hashes.get(f"{name}=={version}", [])
    url = PackageURL("pypi", None, name, version)
    return Component(
        name=name,
        version=version,
        purl=url,
        bom_ref=str(url),
        licenses=_licences(metadata),
        properties=[_where(layer), *(Property(name="kiln:lock:hash", value=h) for h in locked)],
    )


def _licences(metadata: Message) -> list[License]:
    if expression := metadata["License-Expression"]:
        return [LicenseExpression(str(expression))]
    classifiers = [str(value) for value in metadata.get_all("Classifier") or []]
    names = [c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License :: ")]
    if not names and (text := str(metadata["License"] or "").strip()):
        names = [text.splitlines()[0]]
    return [DisjunctiveLicense(name=name) for name in names]


def _debian(record: Message, layer: Layer) -> Component:
    name, version = str(record["Package"]), str(record["Version"])
    qualifiers = {"arch": str(record["Architecture"]), "distro": "debian-12"}
    url = PackageURL("deb", "debian", name, version, qualifiers)
    return Component(
        name=name,
        version=version,
        purl=url,
        bom_ref=str(url),
        hashes=[_sha256(str(record["SHA256"]))] if record["SHA256"] else [],
        properties=[_where(layer)],
    )


def _model(file: File, layer: Layer) -> Component:
    with tarfile.open(layer.blob) as archive:
        content = archive.extractfile(file.info.name)
        assert content
        digest = hashlib.sha256(content.read()).hexdigest()
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=file.path.rpartition("/")[2],
        version=digest[:16],
        bom_ref=f"model:{digest}",
        hashes=[_sha256(digest)],
        properties=[_where(layer)],
    )


def _where(layer: Layer) -> Property:
    return Property(name="kiln:image:layer", value=layer.digest)


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)


if __name__ == "__main__":
    sys.exit(main())
