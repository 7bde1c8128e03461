"""The open inference protocol: as NVIDIA's client speaks it, and as nobody should."""

from __future__ import annotations

import gzip
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from starlette.testclient import TestClient
from tritonclient.utils import InferenceServerException

from serve.errors import InvalidTensor, MalformedJson
from serve.exchange import Exchange
from serve.http.app import create_app
from serve.http.keys import digest_of
from serve.http.tensors import read_input, read_request
from serve.inference.predictor import Predictor
from serve.settings import Settings
from tests.serve.server_process import Server, running
from tests.serve.serving import base64_of, bundled_predictor, client, image_file, pixels

SIZE = (32, 32)
IMAGES: NDArray[np.uint8] = np.stack([pixels(seed) for seed in range(3)])
PHOTO = image_file(pixels(5, 60, 80), "JPEG")
GUIDE = Path("docs/guides/triton-clients.md")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return bundled_predictor()


@pytest.fixture(scope="module")
def name(predictor: Predictor) -> str:
    return predictor.metadata.name


@pytest.fixture(scope="module")
def service(predictor: Predictor) -> Iterator[TestClient]:
    with client(predictor) as running:
        yield running


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(KILN_DEADLINE_MS="60000") as server:
        yield server


@pytest.fixture(scope="module")
def nvidia(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=2) as client:
        yield client


def pixel_input(images: NDArray[Any] = IMAGES, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("images", list(images.shape), "UINT8")
    return tensor.set_data_from_numpy(images, binary_data=binary)


def file_input(*files: bytes, batch: bool = False, binary: bool = True) -> triton.InferInput:
    data = np.array(files, dtype=object)
    data = data.reshape(-1, 1) if batch else data
    tensor = triton.InferInput("image_files", list(data.shape), "BYTES")
    return tensor.set_data_from_numpy(data, binary_data=binary)


def probabilities(result: triton.InferResult) -> NDArray[Any]:
    found: NDArray[Any] = result.as_numpy("probabilities")
    return found


# ---- By NVIDIA's client, against the server ----


def test_the_client_finds_server_and_model(
    nvidia: triton.InferenceServerClient, predictor: Predictor, name: str
) -> None:
    assert nvidia.is_server_live()
    assert nvidia.is_server_ready()
    assert nvidia.is_model_ready(name)
    assert nvidia.is_model_ready(name, predictor.version)
    assert not nvidia.is_model_ready("another")
    assert not nvidia.is_model_ready(name, "1")
    extensions = {"binary_tensor_data", "classification", "model_configuration"}
    assert set(nvidia.get_server_metadata()["extensions"]) == extensions
    metadata = nvidia.get_model_metadata(name, predictor.version)
    assert metadata["versions"] == [predictor.version]
    assert [(one["name"], one["datatype"], one["shape"]) for one in metadata["inputs"]] == [
        ("images", "UINT8", [-1, *SIZE, 3]),
        ("image_files", "BYTES", [-1]),
    ]
    (output,) = metadata["outputs"]
    assert output == {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}
    config = nvidia.get_model_config(name)
    assert config["max_batch_size"] == 100
    assert [one["dims"] for one in config["input"]] == [[*SIZE, 3], [1]]


@pytest.mark.parametrize("binary", [True, False])
def test_pixels_are_answered_bit_for_bit(
    nvidia: triton.InferenceServerClient, predictor: Predictor, name: str, binary: bool
) -> None:
    outputs = [triton.InferRequestedOutput("probabilities", binary_data=binary)]
    result = nvidia.infer(name, [pixel_input(binary=binary)], outputs=outputs, request_id="42 é")
    assert result.get_response()["id"] == "42 é"
    assert result.get_response()["model_version"] == predictor.version
    found = probabilities(result)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, predictor(IMAGES))


@pytest.mark.parametrize("batch", [False, True])
def test_files_are_decoded_as_predict_decodes_them(
    nvidia: triton.InferenceServerClient, server: Server, name: str, batch: bool
) -> None:
    result = nvidia.infer(name, [file_input(PHOTO, batch=batch)])
    body = json.dumps({"image": base64_of(PHOTO), "probabilities": True})
    _, predicted = server.ask("POST", "/predict", body)
    expected = list(predicted["probabilities"].values())
    assert [round(value, 6) for value in probabilities(result)[0].tolist()] == expected


def test_a_file_in_json_is_base64(
    nvidia: triton.InferenceServerClient, predictor: Predictor, name: str
) -> None:
    files = [base64_of(image_file(one)).encode() for one in IMAGES]
    result = nvidia.infer(name, [file_input(*files, binary=False)])
    np.testing.assert_array_equal(probabilities(result), predictor(IMAGES))


@pytest.mark.parametrize("binary", [True, False])
def test_classes_are_named_as_triton_names_them(
    nvidia: triton.InferenceServerClient, server: Server, name: str, binary: bool
) -> None:
    wanted = triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=3)
    found = probabilities(nvidia.infer(name, [file_input(PHOTO)], outputs=[wanted]))
    _, predicted = server.ask("POST", "/predict", json.dumps({"image": base64_of(PHOTO)}))
    expected = [
        f"{one['probability']:.6f}:{one['index']}:{one['label']}" for one in predicted["top_k"]
    ]
    texts = [one.decode() if isinstance(one, bytes) else one for one in found.ravel()]
    assert (found.shape, texts) == ((1, 3), expected)


def test_more_classes_than_there_are_are_all(
    nvidia: triton.InferenceServerClient, name: str
) -> None:
    wanted = triton.InferRequestedOutput("probabilities", class_count=1000)
    assert probabilities(nvidia.infer(name, [pixel_input()], outputs=[wanted])).shape == (3, 10)


def test_requests_at_once_get_their_own_answers(
    nvidia: triton.InferenceServerClient, predictor: Predictor, name: str
) -> None:
    asked = [
        nvidia.async_infer(name, [pixel_input(one[None])], request_id=str(index))
        for index, one in enumerate(IMAGES)
    ]
    for index, one in enumerate(asked):
        result = one.get_result()
        assert result.get_response()["id"] == str(index)
        np.testing.assert_allclose(
            probabilities(result)[0], predictor(IMAGES)[index], rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_both_ways_may_be_compressed(
    nvidia: triton.InferenceServerClient, predictor: Predictor, name: str, algorithm: str
) -> None:
    found = nvidia.infer(
        name,
        [pixel_input()],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    np.testing.assert_array_equal(probabilities(found), predictor(IMAGES))


@pytest.mark.parametrize(
    ("tensors", "status"),
    [
        ([file_input(b"no image")], "415"),
        ([file_input(PHOTO, PHOTO[:300])], "422"),
        ([pixel_input(IMAGES[:, :16])], "400"),
        ([pixel_input(np.zeros((101, *SIZE, 3), np.uint8))], "400"),
        ([pixel_input(), file_input(PHOTO)], "400"),
    ],
)
def test_the_client_reads_errors(
    nvidia: triton.InferenceServerClient, name: str, tensors: list[Any], status: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        nvidia.infer(name, tensors)
    assert caught.value.status() == status
    with pytest.raises(InferenceServerException) as caught:
        nvidia.infer("another", tensors)
    assert caught.value.status() == "404"


def test_the_guide_is_followed(server: Server, tmp_path: Path) -> None:
    """curl's commands and the Python program, as they stand there."""
    text = GUIDE.read_text(encoding="utf-8").replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
    (tmp_path / "photo.jpg").write_bytes(PHOTO)
    (tmp_path / "mine").mkdir()
    program = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    (tmp_path / "mine" / "ask.py").write_text(program, encoding="utf-8")
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    commands = [one for one in blocks.splitlines() if not one.startswith("./tools/bazel")]
    script = "\n".join(commands).replace("python3", sys.executable)
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    said = subprocess.run(
        ["bash", "-ec", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    _, predicted = server.ask("POST", "/predict", json.dumps({"image": base64_of(PHOTO)}))
    best = predicted["top_k"][0]
    assert f"{best['probability']:.6f}:{best['index']}:{best['label']}" in said  # by curl
    assert f"photo.jpg: {best['label']}, {best['probability']:.6f}" in said


# ---- What a request may not be ----


def request(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, *SIZE, 3], "data": [0] * 3072}
    return {"inputs": [tensor | changes]}


def files(*data: Any, **changes: Any) -> dict[str, Any]:
    tensor = {"name": "image_files", "datatype": "BYTES", "shape": [len(data)], "data": data}
    return {"inputs": [tensor | changes]}


GOOD = base64_of(PHOTO)
_OUTPUT = {"name": "probabilities"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (request(), 200),
        (request(data=IMAGES[:1].tolist()), 200),
        (request(parameters=None) | {"id": None, "parameters": None, "outputs": None}, 200),
        (request() | {"model_name": "what is not known is ignored", "outputs": []}, 200),
        (files(GOOD, f"data:image/jpeg;base64,{GOOD}"), 200),
        (files([GOOD], shape=[1, 1]), 200),
        (request(shape=[1.0, *map(float, SIZE), 3.0], data=[255.0] + [0] * 3071), 200),
        (request(data=IMAGES[:1].astype(float).tolist()), 200),
        (request() | {"outputs": [_OUTPUT | {"parameters": {"classification": 2.0}}]}, 200),
        (request(name="pixels"), 400),
        (request(datatype="FP32"), 400),
        (request(datatype="BYTES"), 400),
        (request(shape=[]), 400),
        (request(shape=[0, *SIZE, 3], data=[]), 400),
        (request(shape=[1, 3, *SIZE]), 400),
        (request(shape=[-1, *SIZE, 3]), 400),
        (request(shape=[2, *SIZE, 3]), 400),
        (request(shape=[2**63, *SIZE, 3]), 400),
        (request(shape=[1.5, *SIZE, 3]), 400),
        (request(shape=[True, *SIZE, 3]), 400),
        (request(shape=["1", *SIZE, 3]), 400),
        (request(data=[0] * 3071), 400),
        (request(data=[0] * 3071 + [256]), 400),
        (request(data=[0] * 3071 + [-1]), 400),
        (request(data=[0] * 3071 + [True]), 400),
        (request(data=[0] * 3071 + [0.5]), 400),
        (request(data=[0.0] * 3071 + [256.0]), 400),
        (request(data=[[[[0.0] * 3] * 32] * 31 + [[[0.0] * 3] * 31]]), 400),
        (request(data=[[[[0] * 3] * 32] * 31 + [[[0] * 3] * 31]]), 400),
        (request(data=[[0] * 3072]), 400),
        (request(data="0"), 400),
        (request(data=None), 400),
        (request(parameters={"binary_data_size": 3072}), 400),
        (request(parameters={"shared_memory_region": "r"}), 400),
        (request(parameters=[]), 400),
        (files(), 400),
        (files(GOOD, shape=[2]), 400),
        (files(GOOD, shape=[1, 2]), 400),
        (files(GOOD, datatype="STRING"), 400),
        (files(*[GOOD] * 101), 400),
        (files(1), 400),
        (files("?"), 422),
        (files(base64_of(b"GIF")), 415),
        (files(GOOD, base64_of(PHOTO[:300])), 422),
        (request() | {"outputs": [{"name": "logits"}]}, 400),
        (request() | {"outputs": [_OUTPUT, _OUTPUT]}, 400),
        (request() | {"outputs": [_OUTPUT | {"parameters": {"classification": -1}}]}, 400),
        (request() | {"outputs": [_OUTPUT | {"parameters": {"classification": True}}]}, 400),
        (request() | {"outputs": [_OUTPUT | {"parameters": {"binary_data": 1}}]}, 400),
        (request() | {"parameters": {"binary_data_output": "true"}}, 400),
        (request() | {"id": 42}, 400),
        ({"inputs": []}, 400),
        ({}, 400),
        ([], 400),
    ],
)
def test_requests_in_json(service: TestClient, name: str, body: Any, status: int) -> None:
    response = service.post(f"/v2/models/{name}/infer", json=body)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    if status != 200:
        assert list(response.json()) == ["error"]
        assert response.headers["x-request-id"]


def test_json_may_begin_with_a_byte_order_mark(service: TestClient, name: str) -> None:
    text = json.dumps(request()).encode("utf-8-sig")
    assert service.post(f"/v2/models/{name}/infer", content=text).status_code == 200


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"inputs":[],"id":"\\ud800"}', "nul"])
def test_what_is_no_json(service: TestClient, name: str, text: str) -> None:
    response = service.post(f"/v2/models/{name}/infer", content=text)
    assert response.status_code == 400
    assert response.json()["error"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "9" * 5000])
def test_numbers_that_are_none(service: TestClient, name: str, number: str) -> None:
    text = json.dumps(request()).replace("[0, 0", f"[{number}, 0", 1)
    assert service.post(f"/v2/models/{name}/infer", content=text).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/another", 404),
        ("GET", "/v2/models/{name}/versions/1/config", 404),
        ("GET", "/v2/models", 404),
        ("GET", "/v2/models/{name}/infer", 405),
        ("POST", "/v2/health/live", 405),
        ("POST", "/v2/models/another/infer", 404),
    ],
)
def test_other_paths_are_refused_in_the_protocols_form(
    service: TestClient, name: str, method: str, path: str, status: int
) -> None:
    response = service.request(method, path.format(name=name))
    assert response.status_code == status
    assert list(response.json()) == ["error"]


def test_limits_keys_and_routes_are_those_of_the_service(predictor: Predictor, name: str) -> None:
    seen: list[tuple[str, str | None, int]] = []

    def observe(exchange: Exchange, method: str, path: str) -> None:
        images = 0 if exchange.images is None else len(exchange.images)
        seen.append((exchange.route, exchange.error, images))

    limited = Settings(cpus=1, api_keys=(digest_of(b"k"),), max_body_bytes=50_000, root_path="/p")
    with TestClient(create_app(predictor, limited, observer=observe)) as service:
        path, key = f"/p/v2/models/{name}/infer", {"x-api-key": "k"}
        assert service.post(path, json=request()).status_code == 401
        assert service.post(path, json=request(), headers=key).status_code == 200
        assert service.post(path, content=b"0" * 50_001, headers=key).status_code == 413
        packed = gzip.compress(b"0" * 60_000)
        headers = {**key, "content-encoding": "gzip"}
        response = service.post(path, content=packed, headers=headers)
        assert (response.status_code, list(response.json())) == (413, ["error"])
        assert service.get("/p/v2/health/ready").status_code == 200
    assert seen == [
        ("/v2/models/{name}/infer", "unauthorized", 0),
        ("/v2/models/{name}/infer", None, 1),
        ("/v2/models/{name}/infer", "body-too-large", 0),
        ("/v2/models/{name}/infer", "body-too-large", 0),
        ("/v2/health/ready", None, 0),
    ]


def test_a_model_that_answers_wrongly_is_not_ready(name: str) -> None:
    predictor = bundled_predictor()
    with client(predictor) as service:
        predictor._run = lambda images: np.zeros((len(images), 10), np.float32)  # type: ignore[method-assign]
        for path in ("/v2/health/ready", f"/v2/models/{name}/ready"):
            response = service.get(path)
            assert (response.status_code, list(response.json())) == (503, ["error"])
        assert service.get("/v2/health/live").status_code == 200


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [("gzip", "gzip"), ("br, deflate;q=0.5", "deflate"), ("gzip;q=0", None), ("identity", None)],
)
def test_answers_are_compressed_for_those_who_take_it(
    service: TestClient, name: str, accepted: str, encoding: str | None
) -> None:
    headers = {"accept-encoding": accepted}
    response = service.post(f"/v2/models/{name}/infer", json=request(), headers=headers)
    assert response.headers.get("content-encoding") == encoding
    assert response.headers["vary"] == "accept-encoding"
    assert len(response.json()["outputs"][0]["data"]) == 10


# ---- Binary tensors ----


def binary_body(tensor: dict[str, Any], data: bytes) -> tuple[bytes, int]:
    said = json.dumps({"inputs": [tensor]}).encode()
    return said + data, len(said)


def elements(*parts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def tensor_of(kind: str, count: int, size: int) -> dict[str, Any]:
    shape, datatype = ([count, *SIZE, 3], "UINT8") if kind == "images" else ([count], "BYTES")
    parameters = {"binary_data_size": size}
    return {"name": kind, "datatype": datatype, "shape": shape, "parameters": parameters}


def read(body: bytes, length: int | str) -> Any:
    head = [(b"inference-header-content-length", str(length).encode())]
    return read_input(*read_request({"headers": head}, body), SIZE)


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=5))
def test_elements_are_read_as_they_were_written(parts: list[bytes]) -> None:
    data = elements(*parts)
    found = read(*binary_body(tensor_of("image_files", len(parts), len(data)), data))
    assert [one.data for one in found] == parts


lies = st.integers(-70_000, 70_000) | st.sampled_from([2**31, 2**32 - 1, 2**63, 10**18])


@settings(max_examples=300)
@given(
    kind=st.sampled_from(["images", "image_files"]),
    count=st.integers(1, 3),
    header=lies | st.sampled_from(["", "x", "+5", "1_0", "٣", "0x10", "9" * 5000]),
    size=lies,
    claimed=lies,
    which=st.integers(0, 3),
)
def test_lengths_that_lie_are_refused(
    kind: str, count: int, header: int | str, size: int, claimed: int, which: int
) -> None:
    """One of the header, the tensor's size, the count and the length of an element is another."""
    data = IMAGES[:count].tobytes() if kind == "images" else elements(*[PHOTO[:40]] * count)
    tensor = tensor_of(kind, count, len(data))
    if which == 1:
        tensor["parameters"] = {"binary_data_size": len(data) + (size or 1)}
    elif which == 2:
        tensor["shape"] = [count + (claimed or 1), *tensor["shape"][1:]]
    elif which == 3:
        wrong = struct.pack("<I", (claimed or 1) % 2**32)
        cut = kind == "images" or wrong == data[:4]
        data = data[:-1] if cut else wrong + data[4:]
    body, length = binary_body(tensor, data)
    told = header if which == 0 and header != length else length
    if which == 0 and told == length:
        return
    with pytest.raises((InvalidTensor, MalformedJson)):
        read(body, told)


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 400), more=st.binary(max_size=8), told=st.integers(0, 400))
def test_the_service_has_no_error_of_its_own(
    service: TestClient, name: str, cut: int, more: bytes, told: int
) -> None:
    data = elements(PHOTO)
    body, length = binary_body(tensor_of("image_files", 1, len(data)), data)
    for changed, said in (
        (body[:-cut] if cut else body, length),
        (body + more, length),
        (body, told),
    ):
        headers = {"inference-header-content-length": str(said)}
        response = service.post(f"/v2/models/{name}/infer", content=changed, headers=headers)
        is_whole = (changed, said) == (body, length)
        assert response.status_code == (200 if is_whole else 400), response.text
