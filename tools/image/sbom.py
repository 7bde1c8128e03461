"""Write an image's bill of materials: CycloneDX 1.6, from what is in its layers and from the lock.

https://cyclonedx.org/docs/1.6/json/
"""

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
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tools.image.inspection import File, Inspected, Layer, inspect

Json = dict[str, Any]
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
    options.output.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    return 0


def bill(image: Inspected, name: str, digest: str, lock: str) -> Json:
    """The document, which depends on nothing but the image and the lock.

    Args:
        image: taken apart.
        name: of the image.
        digest: of its manifest.
        lock: requirements with hashes.
    """
    found = {part["bom-ref"]: part for part in _components(image, locked_hashes(lock))}
    subject = {
        "type": "container",
        "bom-ref": f"{name}@{digest}",
        "name": name,
        "version": digest,
        "hashes": [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}],
    }
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_OID, digest).urn,
        "version": 1,
        "metadata": {"component": subject},
        "components": [found[reference] for reference in sorted(found)],
        "dependencies": [{"ref": subject["bom-ref"], "dependsOn": sorted(found)}],
    }


def locked_hashes(lock: str) -> dict[str, list[str]]:
    """Hashes of the files that the lock admits, by project as name==version."""
    found: dict[str, list[str]] = {}
    for entry in lock.replace("\\\n", " ").splitlines():
        if match := re.match(r"([\w.-]+)(?:\[[^]]*\])?==([^\s;]+)", entry):
            found[f"{_normal(match[1])}=={match[2]}"] = _HASH.findall(entry)
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _components(image: Inspected, hashes: Mapping[str, list[str]]) -> Iterator[Json]:
    for layer, file in image.files():
        if _METADATA.fullmatch(file.path):
            yield _python(email.message_from_bytes(file.head), layer, hashes)
        elif file.info.isreg() and _DEBIAN.fullmatch(file.path):
            yield _debian(email.message_from_bytes(file.head), layer)
        elif _MODEL.fullmatch(file.path):
            yield _model(file, layer)


def _python(metadata: Message, layer: Layer, hashes: Mapping[str, list[str]]) -> Json:
    name, version = _normal(str(metadata["Name"])), str(metadata["Version"])
    url = f"pkg:pypi/{name}@{quote(version)}"
    locked = [("kiln:lock:hash", value) for value in hashes.get(f"{name}=={version}", [])]
    part = _component("library", name, version, layer, locked) | {"purl": url, "bom-ref": url}
    if licences := _licences(metadata):
        part["licenses"] = licences
    return part


def _licences(metadata: Message) -> list[Json]:
    if expression := metadata["License-Expression"]:
        return [{"expression": str(expression)}]
    classifiers = [str(value) for value in metadata.get_all("Classifier") or []]
    names = [c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License :: ")]
    if not names and (text := str(metadata["License"] or "").strip()):
        names = [text.splitlines()[0]]
    return [{"license": {"name": name}} for name in names]


def _debian(record: Message, layer: Layer) -> Json:
    name, version = str(record["Package"]), str(record["Version"])
    architecture = str(record["Architecture"])
    url = f"pkg:deb/debian/{name}@{quote(version)}?arch={architecture}&distro=debian-12"
    part = _component("library", name, version, layer, []) | {"purl": url, "bom-ref": url}
    if digest := record["SHA256"]:
        part["hashes"] = [{"alg": "SHA-256", "content": str(digest)}]
    return part


def _model(file: File, layer: Layer) -> Json:
    with tarfile.open(layer.blob) as archive:
        content = archive.extractfile(file.info.name)
        assert content
        digest = hashlib.sha256(content.read()).hexdigest()
    name = file.path.rpartition("/")[2]
    return _component("machine-learning-model", name, digest[:16], layer, []) | {
        "bom-ref": f"model:{digest}",
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }


def _component(
    kind: str, name: str, version: str, layer: Layer, properties: Sequence[tuple[str, str]]
) -> Json:
    where = [("kiln:image:layer", layer.digest), *properties]
    return {
        "type": kind,
        "name": name,
        "version": version,
        "properties": [{"name": key, "value": value} for key, value in where],
    }


if __name__ == "__main__":
    sys.exit(main())
