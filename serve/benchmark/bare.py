"""The machine's own ceiling: the codec and onnxruntime without a service around them."""

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serve.contract.artifact import INPUT, PROBABILITIES
from serve.images import Codec
from serve.quiet_onnxruntime import ort

_SECONDS = 2.0
_BATCH = 100


@dataclass(frozen=True)
class Bare:
    """Milliseconds of the median call, images a second."""

    decode_ms: float
    run_ms: float  # one image, one thread
    batch_images_per_s: float  # a hundred images, a thread for each processor


def measure_bare(path: Path, image: str, cpus: int) -> Bare:
    """Decodes `image`, base64 of a file, and runs the model at `path`, in this process."""
    data = base64.b64decode(image)
    single = _session(path, 1)
    size = single.get_inputs()[0].shape[1:3]
    codec = Codec((size[0], size[1]), max_pixels=2**20)
    pixels = codec.decode(data)[np.newaxis]
    many = np.repeat(pixels, _BATCH, axis=0)
    every = _session(path, cpus)
    return Bare(
        decode_ms=_median_ms(lambda: codec.decode(base64.b64decode(image))),
        run_ms=_median_ms(lambda: single.run([PROBABILITIES], {INPUT: pixels})),
        batch_images_per_s=_BATCH / _median_ms(lambda: every.run(None, {INPUT: many})) * 1e3,
    )


def _session(path: Path, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _median_ms(call: Callable[[], Any]) -> float:
    call()
    seconds = []
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)) * 1e3
