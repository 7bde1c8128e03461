"""The guides, followed word by word: a second dataset, a second network, a second endpoint."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from common.images import MAX_PIXELS, Codec
from common.model.artifact import read_artifact
from common.programs import free_port
from ml.artifact.artifact import load_artifact
from tests.docs.pages import Page, read_page, write_files
from tests.helpers.program import in_shell

GUIDES = Path("docs/guides").resolve()
PATIENCE_S = 120
# What `bazel run` starts, as a module of Python: a test has no Bazel within Bazel.
_PROGRAMS = {
    "//ml:data": "ml.commands.data",
    "//ml:labels": "ml.labels.main",
    "//ml:registry": "ml.registry.main",
    "//ml:retrain": "ml.retrain.main",
    "//ml:train": "ml.commands.train",
    "//serve:api": "serve.server.server",
}
_RUN = re.compile(r"\./tools/bazel run (?P<target>//[\w/]*:\w+)(?P<rest>.*)")


def as_shell(command: str) -> str:
    """The line for a shell without Bazel: programs are started as modules, with our packages."""
    python = shlex.quote(sys.executable)
    found = _RUN.search(command)
    if found:
        rest = found["rest"].removeprefix(" --")
        module = _PROGRAMS[found["target"]]
        # A server is killed with its group, and loads no torch.
        program = f"{python} -m {module}" if module.startswith("serve.") else in_shell(module)
        command = f"{command[: found.start()]}{program}{rest}"
    else:
        command = re.sub(r"(^| )(\.venv/bin/python|python3) ", rf"\1{python} ", command)
    # Our packages, behind those of the reader.
    path = shlex.quote(":".join(filter(None, sys.path)))
    if "PYTHONPATH=" in command:
        return re.sub(r"PYTHONPATH=(\S+)", rf"PYTHONPATH=\1:{path}", command, count=1)
    return f"PYTHONPATH={path} {command}"


def shell(command: str, folder: Path, **variables: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "BUILD_WORKSPACE_DIRECTORY": str(folder),
        "BUILD_WORKING_DIRECTORY": str(folder),
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    return subprocess.Popen(
        ["bash", "-c", as_shell(command)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def type_in(command: str, folder: Path) -> None:
    process = shell(command, folder)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, f"{command}\n{output}"


@contextmanager
def serving(command: str, folder: Path) -> Iterator[str]:
    """The address of what the command starts, once it answers."""
    port = free_port()
    process = shell(command, folder, KILN_PORT=str(port), KILN_WORKERS="1")
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE_S
        while True:
            try:
                ask(f"{address}/health")
                break
            except (URLError, OSError):
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline, "it does not answer"
                time.sleep(0.1)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    data = json.dumps(body).encode() if body else None
    request = Request(url, data, {"Content-Type": "application/json"})
    with urlopen(request, timeout=30) as answer:
        return json.load(answer)


def png(pixels: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def split(page: Page, word: str, begin: str = "") -> tuple[list[str], str]:
    """The commands before the one that has the word, from the one that has the other word on, and
    that one."""
    start = next(n for n, command in enumerate(page.commands) if begin in command)
    number = next(n for n, line in enumerate(page.commands) if n >= start and word in line)
    return page.commands[start:number], page.commands[number]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A reader's folder with the dataset guide's files in it."""
    write_files(read_page(GUIDES / "new-dataset.md"), tmp_path)
    return tmp_path


def test_a_folder_of_images_goes_all_the_way_to_the_service_without_code(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILN_CACHE", str(mine / "cache"))
    before, serve = split(read_page(GUIDES / "new-dataset.md"), "//serve:api")
    for command in before:
        type_in(command, mine)
    [run] = (mine / "runs").glob("*_digits")
    model = read_artifact((run / "model.onnx").read_bytes())
    assert model.classes == tuple("0123456789")
    assert model.input_size == (16, 16)
    assert model.test_metrics.accuracy >= 0.98  # measured: 0.9916
    assert "<h1>photos</h1>" in (mine / "photos.html").read_text()
    files = sorted((mine / "photos").glob("*/*.png"))[::60]
    with serving(serve, mine) as address:
        images = [base64.b64encode(file.read_bytes()).decode() for file in files]
        told = ask(f"{address}/predict/batch", {"images": images})["results"]
    right = [
        answer["prediction"]["label"] == file.parent.name
        for answer, file in zip(told, files, strict=True)
    ]
    assert sum(right) >= 0.95 * len(files)


def test_labels_of_another_camera_make_a_better_champion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILN_CACHE", str(tmp_path / "cache"))
    for name in ("KILN_CAPTURE", "KILN_REGISTRY", "KILN_MODEL_KEY", "KILN_SIGNING_KEY"):
        monkeypatch.delenv(name, raising=False)
    page = read_page(GUIDES / "closing-the-loop.md")
    write_files(page, tmp_path)
    for command in page.commands:
        type_in(command, tmp_path)
    [record] = [
        json.loads(path.read_text())
        for path in (tmp_path / ".kiln/retrain").glob("*/record.json")
        if json.loads(path.read_text())["decision"] == "promoted"
    ]
    run = Path(record["run"])
    traffic = np.load(tmp_path / "traffic.npz")
    version = (tmp_path / "cache/captured").glob("*/dataset.json")
    assert any(json.loads(facts.read_text())["counts"]["test"] for facts in version)
    before, after = (
        accuracy(folder, traffic["images"], traffic["labels"])
        for folder in (next(iter((tmp_path / "runs").glob("*_digits"))), run)
    )
    assert after > before + 0.2


def accuracy(run: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> float:
    """Of a run's model on grey images of 8 × 8."""
    model = load_artifact(run / "model.onnx")
    codec = Codec(model.metadata.input_size, MAX_PIXELS, model.metadata.resize)
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files.append(codec.decode(file.getvalue()))
    return float((model.predict(np.stack(files)).probabilities.argmax(1) == labels).mean())


def test_a_new_dataset_goes_all_the_way_to_the_service(mine: Path) -> None:
    page = read_page(GUIDES / "new-dataset.md")
    before, serve = split(page, "//serve:api", begin="mine/draw.py")
    for command in before:
        type_in(command, mine)
    [run] = (mine / "runs").glob("*_shapes")
    model = read_artifact((run / "model.onnx").read_bytes())
    assert model.classes == ("disc", "square", "cross")
    assert model.input_size == (24, 24)
    assert model.test_metrics.accuracy > 0.95  # measured: 1.0
    test = np.load(mine / "mine/test.npz")
    with serving(serve, mine) as address:
        assert ask(f"{address}/model/info")["version"] == model.version
        told = [ask(f"{address}/predict", {"image": png(image)}) for image in test["images"][:20]]
    right = [answer["index"] == label for answer, label in zip(told, test["labels"], strict=False)]
    assert sum(right) >= 19


def test_a_new_network_learns_and_is_exported(mine: Path) -> None:
    draw, _ = split(read_page(GUIDES / "new-dataset.md"), "//ml:train", begin="mine/draw.py")
    page = read_page(GUIDES / "new-network.md")
    write_files(page, mine)
    for command in [*draw, *page.commands]:
        type_in(command, mine)
    [run] = (mine / "runs").glob("*_plain")
    model = read_artifact((run / "model.onnx").read_bytes())
    assert model.test_metrics.accuracy > 0.8
    assert "plain.Plain" in (run / "config.yaml").read_text()


def test_a_new_endpoint_answers_beside_the_others(tmp_path: Path) -> None:
    page = read_page(GUIDES / "new-endpoint.md")
    write_files(page, tmp_path)
    (tmp_path / "ml").symlink_to(Path("ml").resolve())
    _, serve = split(page, "mine/service.py")
    with serving(serve, tmp_path) as address:
        classes = ask(f"{address}/model/info")["classes"]
        assert ask(f"{address}/classes") == sorted(classes, key=len, reverse=True)
        with urlopen(f"{address}/classes") as answer:
            assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])
