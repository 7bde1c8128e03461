"""Writing OCI layouts."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.oci import (
    Image,
    ImageError,
    add_layer,
    blob_path,
    empty_image,
    read_image,
    write_image,
)
from tools.offline.oci_layout import image as image_program
from tools.offline.oci_layout import load
from tools.offline.oci_layout.image import configured, merged_environment


def tar_of(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text.encode()))
    return path


def zipped(tar: Path, *parts: slice) -> Path:
    path = tar.with_suffix(".tar.gz")
    data = tar.read_bytes()
    path.write_bytes(b"".join(gzip.compress(data[part], mtime=0) for part in parts))
    return path


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def config_of(**settings: object) -> dict[str, object]:
    config = configured(empty_image("linux", "amd64"), settings).config["config"]
    assert isinstance(config, dict)
    return config


def test_an_image_is_read_as_it_was_written(tmp_path: Path) -> None:
    layer = tar_of(tmp_path, "a", "text")
    written = write_image(
        tmp_path / "out", add_layer(tmp_path / "out", empty_image("linux", "amd64"), layer, "me")
    )
    image = read_image(tmp_path / "out")

    index = json.loads((tmp_path / "out" / "index.json").read_bytes())
    assert index["manifests"][0]["digest"] == written
    assert digest(blob_path(tmp_path / "out", written).read_bytes()) == written
    (described,) = image.manifest["layers"]
    assert described["digest"] == digest(layer.read_bytes())
    assert blob_path(tmp_path / "out", described["digest"]).read_bytes() == layer.read_bytes()
    assert image.config["history"][0]["created_by"] == "me"


@pytest.mark.parametrize("parts", [[slice(None)], [slice(0, 700), slice(700, None)]])
def test_a_gzipped_layer_is_known_by_the_tar_inside(tmp_path: Path, parts: list[slice]) -> None:
    tar = tar_of(tmp_path, "a", "text")
    packed = zipped(tar, *parts)

    image = add_layer(tmp_path / "out", empty_image("linux", "amd64"), packed, "")

    assert image.manifest["layers"][0]["mediaType"].endswith(".tar+gzip")
    assert image.manifest["layers"][0]["digest"] == digest(packed.read_bytes())
    assert image.config["rootfs"]["diff_ids"] == [digest(tar.read_bytes())]


def test_a_layer_on_a_docker_base_has_dockers_media_type(tmp_path: Path) -> None:
    base = empty_image("linux", "amd64")
    docker = "application/vnd.docker.distribution.manifest.v2+json"
    base = Image(base.manifest | {"mediaType": docker}, base.config)
    image = add_layer(tmp_path / "out", base, zipped(tar_of(tmp_path, "a", ""), slice(None)), "")
    layer_type = image.manifest["layers"][0]["mediaType"]
    assert layer_type == "application/vnd.docker.image.rootfs.diff.tar.gzip"


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"\x28\xb5\x2f\xfd rest", "zstd"), (gzip.compress(b"x" * 99)[:-9], "ends in the middle")],
)
def test_a_layer_that_would_not_run_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    layer = tmp_path / "layer.tar.gz"
    layer.write_bytes(data)
    with pytest.raises(ImageError, match=reason):
        add_layer(tmp_path / "out", empty_image("linux", "amd64"), layer, "")


def test_the_same_parts_are_the_same_image(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"labels": {"a": "b"}, "user": "1"}')
    (tmp_path / "labels.txt").write_text("revision=abc\n")
    layer = tar_of(tmp_path, "a", "text")
    digests = []
    for name in ("one", "two"):
        options = {
            "platform": "linux/amd64",
            "layer": layer,
            "created-by": "//a:a",
            "settings": tmp_path / "settings.json",
            "labels-file": tmp_path / "labels.txt",
            "output": tmp_path / name,
            "digest": tmp_path / f"{name}.txt",
        }
        code = image_program.main([f"--{option}={value}" for option, value in options.items()])
        assert code == 0
        digests.append((tmp_path / f"{name}.txt").read_text())
    assert digests[0] == digests[1]
    assert read_image(tmp_path / "one").config["config"]["Labels"] == {"revision": "abc"}


def test_a_new_entrypoint_does_not_get_the_old_arguments() -> None:
    base = configured(empty_image("linux", "amd64"), {"entrypoint": ["a"], "cmd": ["--a"]})
    config = configured(base, {"entrypoint": ["b"]}).config["config"]
    assert config["Entrypoint"] == ["b"]
    assert "Cmd" not in config


def test_what_is_not_said_stays_as_the_base_has_it() -> None:
    base = configured(empty_image("linux", "amd64"), {"user": "1", "labels": {"a": "1"}})
    config = configured(base, {"labels": {"b": "2"}}).config["config"]
    assert config == {"User": "1", "Labels": {"a": "1", "b": "2"}}


def test_ports_and_volumes_are_sets() -> None:
    config = config_of(exposed_ports=["80/tcp"], volumes=["/data"])
    assert config == {"ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}}}


def test_a_variable_may_extend_the_base() -> None:
    merged = merged_environment(["PATH=/bin", "A=1"], {"PATH": "/srv:${PATH}:$NONE", "B": "=x"})
    assert merged == ["PATH=/srv:/bin:", "A=1", "B==x"]


@given(st.dictionaries(st.from_regex(r"[A-Z]{1,3}", fullmatch=True), st.text("ab=/:", max_size=5)))
def test_plain_variables_are_kept_as_they_are(variables: dict[str, str]) -> None:
    assert dict(e.split("=", 1) for e in merged_environment([], variables)) == variables


def test_an_archive_names_its_parts_for_docker(tmp_path: Path) -> None:
    layer = tar_of(tmp_path, "a", "text")
    image = add_layer(tmp_path / "out", empty_image("linux", "amd64"), layer, "")
    write_image(tmp_path / "out", image)
    (tmp_path / "tags").write_text("kiln:latest\n")

    options = {"image": "out", "repo-tags": "tags", "output": "archive.tar"}
    load.main([f"--{option}={tmp_path / name}" for option, name in options.items()])

    with tarfile.open(tmp_path / "archive.tar") as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        (entry,) = json.load(manifest)
        assert entry["RepoTags"] == ["kiln:latest"]
        packed = archive.extractfile(entry["Layers"][0])
        assert packed is not None
        assert packed.read() == layer.read_bytes()
        assert entry["Config"] in archive.getnames()


def test_an_engine_that_refuses_has_the_last_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "layer").write_bytes(bytes(1 << 20))
    image = add_layer(tmp_path / "out", empty_image("linux", "amd64"), tmp_path / "layer", "")
    write_image(tmp_path / "out", image)
    (tmp_path / "tags").write_text("kiln:latest\n")
    engine = tmp_path / "engine"
    engine.write_text("#!/bin/sh\necho no engine here >&2\nexit 3\n")
    engine.chmod(0o755)
    options = {"image": "out", "repo-tags": "tags", "loader": "engine"}
    assert load.main([f"--{option}={tmp_path / name}" for option, name in options.items()]) == 3
    assert capfd.readouterr().err == "no engine here\n"
