"""Images as the rules build and push them: the same statements in both worlds."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.tools.image.registry import registry

if "IMAGE" not in os.environ:
    pytest.skip("built by Bazel: bazel test //tests/tools/offline", allow_module_level=True)

IMAGE, PUSH = Path(os.environ["IMAGE"]).absolute(), Path(os.environ["PUSH"]).absolute()
DIGEST = Path(os.environ["DIGEST"]).read_text().strip()


def blob(digest: str) -> Path:
    return IMAGE / "blobs" / digest.replace(":", "/")


def read(digest: str) -> dict[str, Any]:
    content = json.loads(blob(digest).read_bytes())
    assert isinstance(content, dict)
    return content


def test_the_digest_is_that_of_the_manifest() -> None:
    index = json.loads((IMAGE / "index.json").read_bytes())
    assert [manifest["digest"] for manifest in index["manifests"]] == [DIGEST]


def test_the_image_is_configured_as_the_build_file_says() -> None:
    config = read(read(DIGEST)["config"]["digest"])["config"]
    assert config["Entrypoint"] == ["/usr/bin/python3", "-I"]
    assert config["Cmd"] == ["--version"]
    assert config["Labels"]["purpose"] == "test"
    assert config["User"] == "65532"
    assert config["ExposedPorts"] == {"8080/tcp": {}}
    assert "GREETING=hello" in config["Env"]
    assert any(entry.startswith("PATH=/srv/bin:/") for entry in config["Env"])


def test_the_base_has_python_and_no_shell() -> None:
    paths = set()
    for layer in read(DIGEST)["layers"]:
        with tarfile.open(blob(layer["digest"])) as tar:
            paths |= {name.removeprefix("./").rstrip("/") for name in tar.getnames()}
    assert {"usr/bin/python3.11", "hello.txt"} <= paths
    assert not paths & {f"{folder}/{sh}" for folder in ("bin", "usr/bin") for sh in ("sh", "bash")}


def test_a_push_leaves_the_image_and_its_tags_in_the_registry(tmp_path: Path) -> None:
    with registry(tmp_path) as server:
        done = subprocess.run(
            [PUSH, "--repository", f"{server.address}/kiln/test", "--tag", "extra"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        for tag in ("fixed", "extra"):
            assert server.manifest("kiln/test", tag)[0] == DIGEST
