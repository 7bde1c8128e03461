"""The image with another model in it: only that layer differs, as after training anew."""

from __future__ import annotations

import tarfile
from pathlib import Path

from tools.image.archive import Entry, with_parents, write_layer
from tools.image.layout import Image, add_layer, blob_path, read_image, write_image

MODEL = "opt/model/model.onnx"


class NoModel(ValueError):
    """The image has no layer with a model."""


def with_model(layout: Path, model: Path, target: Path) -> str:
    """Writes the layout of the image with this model; the digest.

    Raises:
        NoModel: there is none to replace.
    """
    image = read_image(layout)
    layers = [blob_path(layout, layer["digest"]) for layer in image.manifest["layers"]]
    place = _find_model(layers)
    for descriptor in image.manifest["layers"]:
        _link(layout, target, descriptor["digest"])
    tar = target / "model.tar.gz"
    write_layer(with_parents([Entry(MODEL, data=model)]), tar, effort=1)
    changed = add_layer(target, _below(image, place), tar, f"with_model {model.name}")
    tar.unlink()
    for blob in layers[place + 1 :]:
        changed = add_layer(target, changed, blob, "as before")
    return write_image(target, changed)


def _find_model(layers: list[Path]) -> int:
    for place in reversed(range(len(layers))):
        with tarfile.open(layers[place]) as archive:
            if any(member.name.removeprefix("./") == MODEL for member in archive):
                return place
    raise NoModel(f"no layer of the image has {MODEL}")


def _below(image: Image, place: int) -> Image:
    """The image without this layer and those above."""
    rootfs = image.config["rootfs"]
    history = [one for one in image.config.get("history", []) if not one.get("empty_layer")]
    return Image(
        image.manifest | {"layers": image.manifest["layers"][:place]},
        image.config
        | {
            "history": history[:place],
            "rootfs": rootfs | {"diff_ids": rootfs["diff_ids"][:place]},
        },
    )


def _link(layout: Path, target: Path, digest: str) -> None:
    place = blob_path(target, digest)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(blob_path(layout, digest).resolve())
