"""Each of Lambda's rules refuses a layout that breaks it and nothing else."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from common.oci import (
    Entry,
    Image,
    add_layer,
    blob_path,
    empty_image,
    read_image,
    with_parents,
    write_image,
    write_layer,
)
from tools.image.inspection import secret_in, secret_variable
from tools.image.lambda_rules import SizeLimits, problems

ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\x3e\x00"
FILES = [
    Entry("usr/bin/python3.11", mode=0o755, data=ELF),
    Entry("usr/bin/python3", tarfile.SYMTYPE, 0o777, link="python3.11"),
    Entry("var/task/boot.py", data=b"import this"),
]
CONFIG: dict[str, Any] = {"Entrypoint": ["/usr/bin/python3", "-I", "/var/task/boot.py"], "Env": []}
LIMITS = SizeLimits(image=10_000, layers={"application": 5_000})


def layout_of(
    folder: Path,
    files: Sequence[Entry] | None = None,
    parents: bool = True,
    layer: Path | None = None,
    **changes: Any,
) -> Path:
    """A layout of one layer that is right, but for the changes to its files or configuration."""
    files = FILES if files is None else files
    if layer is None:
        layer = folder / "layer.tar.gz"
        write_layer(with_parents(files) if parents else files, layer)
    image = empty_image("linux", "amd64")
    image = add_layer(folder / "image", image, layer, "bazel build //serve/image:application")
    config = image.config | {"config": CONFIG} | changes
    write_image(folder / "image", Image(image.manifest, config))
    return folder / "image"


def test_an_image_that_keeps_the_rules_has_no_problems(tmp_path: Path) -> None:
    assert problems(layout_of(tmp_path), LIMITS, ["torch"]) == []


def rewritten(layout: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The layout with a changed manifest, its digests as they should be."""
    image = read_image(layout)
    change(image.manifest)
    write_image(layout, image)
    return layout


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ([Entry("/etc/x")], "/etc/x is an absolute name"),
        ([Entry("var/task/../../../x")], "leads out of the root"),
        ([Entry("var/task/boot.py")], "var/task/boot.py is there twice"),
        ([Entry("var/x", tarfile.SYMTYPE, link="../../etc")], "links out of the root"),
        ([Entry("var/x", tarfile.CHRTYPE)], "is a device"),
        ([Entry("var/x", mode=0o640)], "var/x cannot be read by every user (640)"),
        ([Entry("var/y", tarfile.DIRTYPE, 0o750)], "var/y cannot be read by every user"),
        ([Entry("var/x.so", data=ELF[:18] + b"\xb7\x00")], "machine 183, not x86-64"),
        ([Entry("var/x.so", data=ELF[:4] + b"\x01" + ELF[5:])], "not x86-64"),
        ([Entry("var/task/.env")], ".env is where secrets are kept"),
        ([Entry("home/x/.aws/credentials")], "where secrets are kept"),
        (
            [Entry("a", data=b"-----BEGIN PRIVATE KEY-----\n" + b"A" * 64)],
            "looks like a private key",
        ),
        ([Entry("b", data=b"key = AKIA" + b"Q" * 16)], "looks like an AWS access key"),
        ([Entry("usr/lib/python3/dist-packages/torch.py")], "torch"),
    ],
)
def test_a_file_that_breaks_a_rule_is_named(
    tmp_path: Path, files: list[Entry], complaint: str
) -> None:
    around = [Entry("home/x/.aws/other"), Entry("usr/lib/python3/dist-packages/six.py")]
    content = [*with_parents([*FILES, *around]), *files]
    found = problems(layout_of(tmp_path, content, parents=False), LIMITS, ["torch", "wandb"])
    assert len(found) == 1, found
    assert complaint in found[0]


def test_every_folder_needs_an_entry(tmp_path: Path) -> None:
    found = problems(layout_of(tmp_path, FILES, parents=False), LIMITS)
    assert found == [
        "application: the folder usr/bin has no entry of its own",
        "application: the folder var/task has no entry of its own",
    ]


def test_several_manifests_are_refused(tmp_path: Path) -> None:
    layout = layout_of(tmp_path)
    index = json.loads((layout / "index.json").read_bytes())
    index["manifests"] *= 2
    (layout / "index.json").write_text(json.dumps(index))
    assert "2" in problems(layout, LIMITS)[0].split()


def test_an_index_is_refused(tmp_path: Path) -> None:
    layout = layout_of(tmp_path)
    text = (layout / "index.json").read_text()
    (layout / "index.json").write_text(text.replace("image.manifest", "image.index"))
    (found,) = problems(layout, LIMITS)
    assert "application/vnd.oci.image.index.v1+json" in re.findall(r"[\w./+-]+", found)


def test_a_layer_that_is_not_gzipped_is_refused(tmp_path: Path) -> None:
    write_layer(with_parents(FILES), tmp_path / "layer.tar.gz")
    (tmp_path / "layer.tar").write_bytes(gzip.decompress((tmp_path / "layer.tar.gz").read_bytes()))
    found = problems(layout_of(tmp_path, layer=tmp_path / "layer.tar"), SizeLimits())
    assert [problem.partition(": ")[2] for problem in found] == [
        "application/vnd.oci.image.layer.v1.tar is no gzipped layer",
        "the blob is not gzipped, whatever its media type says",
    ]


def test_a_layer_of_another_media_type_is_refused(tmp_path: Path) -> None:
    def zstd(manifest: dict[str, Any]) -> None:
        manifest["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+zstd"

    (found,) = problems(rewritten(layout_of(tmp_path), zstd), LIMITS)
    assert found.endswith("tar+zstd is no gzipped layer")


def test_a_blob_that_was_changed_is_noticed(tmp_path: Path) -> None:
    layout = layout_of(tmp_path)
    blob = blob_path(layout, read_image(layout).manifest["layers"][0]["digest"])
    write_layer(with_parents([*FILES, Entry("other")]), blob)
    (found,) = problems(layout, LIMITS)
    assert found.startswith("application: ")


def test_a_layout_with_a_blob_missing_is_no_crash(tmp_path: Path) -> None:
    layout = layout_of(tmp_path)
    blob_path(layout, read_image(layout).manifest["layers"][0]["digest"]).unlink()
    (found,) = problems(layout, LIMITS)
    assert found.startswith("the layout cannot be read: FileNotFoundError")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"architecture": "arm64"}, "the image is for linux/arm64"),
        ({"config": CONFIG | {"Entrypoint": []}}, "no entrypoint"),
        ({"config": CONFIG | {"Entrypoint": ["/bin/sh"]}}, "/bin/sh is in no layer"),
        (
            {"config": CONFIG | {"Entrypoint": ["/var/task/boot.py"]}},
            "cannot be executed by every user",
        ),
        ({"config": CONFIG | {"Env": ["DB_PASSWORD=x"]}}, "DB_PASSWORD has a value"),
        ({"config": CONFIG | {"Env": ["X=AKIA" + "Q" * 16]}}, "X contains what looks like an AWS"),
        ({"history": [{"created_by": "RUN x ghp_" + "a" * 36}]}, "the history: contains"),
    ],
)
def test_a_configuration_that_breaks_a_rule_is_named(
    tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    limits = SizeLimits() if "history" in changes else LIMITS
    (found,) = problems(layout_of(tmp_path, **changes), limits)
    assert complaint in found


def test_weight_is_limited_in_total_and_by_layer(tmp_path: Path) -> None:
    layout = layout_of(tmp_path)
    found = problems(layout, SizeLimits(image=10, layers={"application": 20, "model": 30}))
    assert [problem.partition(" bytes")[0].split()[0] for problem in found] == [
        "the",
        "application:",
        "0",
    ]


def test_examples_of_keys_are_no_keys() -> None:
    example = b"AKIAIOSFODNN7EXAMPLE"  # pragma: allowlist secret: of AWS's own manual
    assert secret_in(example) is None
    assert secret_in(b"-----BEGIN PRIVATE KEY-----\n...") is None
    assert secret_variable("SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt") is None
    assert secret_variable("API_KEY=") is None


def test_a_tar_with_a_leading_dot_is_read_the_same(tmp_path: Path) -> None:
    path = tmp_path / "dotted.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for entry in with_parents(FILES):
            info = tarfile.TarInfo(f"./{entry.path}")
            info.type, info.mode, info.linkname = entry.kind, entry.mode, entry.link
            data = entry.data if isinstance(entry.data, bytes) else b""
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert problems(layout_of(tmp_path, layer=path), LIMITS) == []
