"""One runtime with one model, among the runtime's own packages: measures, and prints JSON.

    python contender.py RUNTIME MODEL IMAGES ANSWERS SECONDS THREADS

IMAGES holds uint8 [n, H, W, 3]; the float32 [n, K] probabilities are written to ANSWERS.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 100
Predict = Callable[[Any], Any]


def onnxruntime(model: Path, threads: int) -> Predict:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["probabilities"], {"images": images})[0]


def openvino(model: Path, threads: int) -> Predict:
    import openvino as ov

    hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(str(model), "CPU", hints).create_infer_request()

    def predict(images: Any) -> Any:
        request.infer({"images": images})
        return request.get_tensor("probabilities").data.copy()

    return predict


def ncnn(model: Path, threads: int) -> Predict:
    """pnnx's files, which start after the cast to float; one image at a time."""
    import ncnn as runtime

    net = runtime.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    if net.load_param(str(model)) or net.load_model(str(model.with_suffix(".bin"))):
        raise RuntimeError(f"ncnn cannot load {model.name}")
    first, last = net.input_names()[0], net.output_names()[0]

    def one(image: Any) -> Any:
        # A Mat does not keep a reference.
        planes = np.ascontiguousarray(image.transpose(2, 0, 1), "f4")
        extractor = net.create_extractor()
        extractor.input(first, runtime.Mat(planes))
        return np.array(extractor.extract(last)[1])

    return lambda images: np.stack([one(image).reshape(-1) for image in images])


def litert(model: Path, threads: int) -> Predict:
    """onnx2tf's file, which takes one image."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(model), num_threads=threads)
    interpreter.allocate_tensors()
    [given] = interpreter.get_input_details()
    outputs = [one["index"] for one in interpreter.get_output_details()]

    def one(image: Any) -> list[Any]:
        if image.shape != tuple(given["shape"][1:]):  # transposed as if it had been (N, C, H, W)
            image = image.transpose(1, 2, 0)
        interpreter.set_tensor(given["index"], image[np.newaxis].astype(given["dtype"]))
        interpreter.invoke()
        return [interpreter.get_tensor(index)[0] for index in outputs]

    # Of logits and probabilities the latter sum to one.
    sums = [abs(found.sum() - 1) for found in one(np.zeros(given["shape"][1:], np.uint8))]
    chosen = sums.index(min(sums))
    return lambda images: np.stack([one(image)[chosen] for image in images])


RUNTIMES = {one.__name__: one for one in (onnxruntime, openvino, ncnn, litert)}


def median_s(call: Callable[[], Any], seconds: float) -> float:
    call()
    found, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(found) < 3:
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return float(np.median(found))


def main(runtime: str, model: str, images: str, answers: str, seconds: str, threads: str) -> None:
    start = time.perf_counter()
    single = RUNTIMES[runtime](Path(model), 1)
    pixels = np.load(images)
    single(pixels[:1])
    first_s = time.perf_counter() - start
    np.save(answers, np.concatenate([single(pixels[i : i + 1]) for i in range(len(pixels))]))
    every = RUNTIMES[runtime](Path(model), int(threads))
    many = pixels[:BATCH]
    print(
        json.dumps(
            {
                "first_answer_s": first_s,
                "lone_ms": median_s(lambda: single(pixels[:1]), float(seconds)) * 1e3,
                "batch_images_per_s": BATCH / median_s(lambda: every(many), float(seconds)),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
