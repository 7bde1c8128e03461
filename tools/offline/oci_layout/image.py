"""Write the layout of an image: a base, layers on top, a changed configuration."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.oci import (
    Image,
    ImageError,
    Json,
    add_layer,
    blob_path,
    empty_image,
    read_image,
    write_image,
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, help="layout to start from")
    parser.add_argument("--platform", help="os/architecture, where there is no base")
    parser.add_argument("--layer", type=Path, action="append", default=[], help="tar, in order")
    parser.add_argument("--created-by", action="append", default=[], help="label of each layer")
    parser.add_argument("--settings", type=Path, required=True, help="JSON: what to change")
    parser.add_argument("--labels-file", type=Path, help="lines of name=value")
    parser.add_argument("--annotations-file", type=Path, help="lines of name=value")
    parser.add_argument("--env-file", type=Path, help="lines of name=value")
    parser.add_argument("--output", type=Path, required=True, help="layout folder to write")
    parser.add_argument("--digest", type=Path, required=True, help="file for the image's digest")
    options = parser.parse_args(arguments)
    try:
        options.digest.write_text(_build(options) + "\n", encoding="utf-8")
    except ImageError as error:
        print(f"kiln: error: {error}", file=sys.stderr)
        return 1
    return 0


def _build(options: argparse.Namespace) -> str:
    settings = json.loads(options.settings.read_bytes())
    for name in ("labels", "annotations", "env"):
        if path := getattr(options, f"{name}_file"):
            settings[name] = dict(_pair(line) for line in path.read_text().splitlines() if line)
    if options.base:
        image = read_image(options.base)
        _copy_layers(image, options.base, options.output)
    else:
        image = empty_image(*options.platform.split("/"))
    for tar, label in zip(options.layer, options.created_by, strict=True):
        image = add_layer(options.output, image, tar, f"bazel build {label}")
    return write_image(options.output, configured(image, settings))


def _pair(line: str) -> tuple[str, str]:
    name, found, value = line.partition("=")
    if not found:
        raise ImageError(f"expected name=value, got {line!r}")
    return name, value


def _copy_layers(image: Image, base: Path, output: Path) -> None:
    for layer in image.manifest["layers"]:
        target = blob_path(output, layer["digest"])
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(blob_path(base, layer["digest"]), target)


def configured(image: Image, settings: Json) -> Image:
    """The image with ``settings``: what they leave out stays as the base has it."""
    config: Json = dict(image.config.get("config") or {})
    if "entrypoint" in settings:  # a new entrypoint does not get the old one's arguments
        config.pop("Cmd", None)
        config["Entrypoint"] = settings["entrypoint"]
    if "cmd" in settings:
        config["Cmd"] = settings["cmd"]
    if "env" in settings:
        config["Env"] = merged_environment(config.get("Env") or [], settings["env"])
    if "labels" in settings:
        config["Labels"] = {**(config.get("Labels") or {}), **settings["labels"]}
    for name, key in (("exposed_ports", "ExposedPorts"), ("volumes", "Volumes")):
        if name in settings:
            config[key] = {value: {} for value in settings[name]}
    for name, key in (("user", "User"), ("workdir", "WorkingDir")):
        if name in settings:
            config[key] = settings[name]
    manifest = image.manifest
    if "annotations" in settings:
        annotations = {**manifest.get("annotations", {}), **settings["annotations"]}
        manifest = manifest | {"annotations": annotations}
    return Image(manifest, image.config | {"config": config})


def merged_environment(base: Sequence[str], changes: Mapping[str, str]) -> list[str]:
    """Names keep their places; ``$NAME`` and ``${NAME}`` stand for what was set before."""
    values = dict(_pair(entry) for entry in base)
    for name, value in changes.items():
        values[name] = re.sub(r"\$\{?(\w+)\}?", lambda match: values.get(match[1], ""), value)
    return [f"{name}={value}" for name, value in values.items()]


if __name__ == "__main__":
    sys.exit(main())
