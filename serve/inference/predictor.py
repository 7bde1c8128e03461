"""The model in memory: RGB pixels in, class probabilities out."""

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.model.artifact import (
    CHANNELS,
    INPUT,
    PROBABILITIES,
    ArtifactError,
    ArtifactMetadata,
    read_artifact,
)
from serve.inference.signed import read_bytes

# Before the import: released wheels otherwise send telemetry to the vendor, see
# https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

__all__ = ["ArtifactError", "Predictor", "fastest", "ort"]
logger = logging.getLogger(__name__)
# Larger batches' activations do not fit a core's cache: 100 images at once ran at 0.65 of the speed
# of 16.
_RUN = 16


class Predictor:
    """A verified model artifact and its session."""

    def __init__(self, artifact: bytes, threads: int = 1) -> None:
        """Verifies the bytes, then opens a session on `threads` threads.

        Raises:
            ArtifactError: the artifact is damaged, foreign, or one that onnxruntime cannot run.
        """
        self.metadata: ArtifactMetadata = read_artifact(artifact)
        self._session = _session(artifact, threads)

    @classmethod
    def load(cls, path: Path, threads: int = 1, key: str = "") -> "Predictor":
        """A warm predictor for the artifact at `path`, checked against its parity vector.

        Args:
            key: as KILN_MODEL_KEY: the public key that must verify the file's signature.

        Raises:
            ArtifactError: names the file and why it cannot be served.
        """
        try:
            predictor = cls(read_bytes(path, key), threads)
            predictor.check()
        except OSError as exc:
            raise ArtifactError(f"cannot read the model {path}: {exc.strerror}") from exc
        except ArtifactError as exc:
            raise ArtifactError(f"cannot serve {path}: {exc}") from exc
        return predictor

    @property
    def version(self) -> str:
        """Digest of graph and weights, 64 hexadecimal digits."""
        return self.metadata.version

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, K) probabilities of (N, H, W, 3) RGB images."""
        if len(images) <= _RUN:
            return self._run(images)
        parts = [self._run(images[start : start + _RUN]) for start in range(0, len(images), _RUN)]
        return np.concatenate(parts)

    def check(self) -> None:
        """Runs the artifact's parity images, which also warms the session.

        Raises:
            ArtifactError: the probabilities differ from those recorded at export.
        """
        parity = self.metadata.parity
        shape = (-1, *self.metadata.input_size, len(CHANNELS))
        expected = np.array(parity.probabilities)
        try:
            answers = self(np.frombuffer(parity.images, np.uint8).reshape(shape))
        except Exception as exc:  # onnxruntime's exceptions share no base class
            raise ArtifactError(f"onnxruntime cannot run the model: {exc}") from exc
        if np.shape(answers) != expected.shape:
            raise ArtifactError(
                f"the session answers {np.shape(answers)} numbers, expected {expected.shape}: "
                "a probability of each class for each of the artifact's own images"
            )
        difference = float(np.abs(answers - expected).max())
        if not difference <= parity.tolerance:  # this form also rejects NaN
            raise ArtifactError(
                f"the session's answers to the artifact's own images are {difference:.2g} away "
                f"from the recorded ones, expected at most {parity.tolerance:.2g}"
            )

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        answers: NDArray[np.float32] = self._session.run([PROBABILITIES], {INPUT: images})[0]
        return answers


_ROUNDS = 10  # interleaved, minimum of each: other load slows all alike


def fastest(paths: Sequence[Path], threads: int = 1) -> Path:
    """The artifact that runs its parity images in the least time.

    Raises:
        ArtifactError: names the file that cannot be served.
    """
    predictors = [Predictor.load(path, threads) for path in paths]
    best = [float("inf")] * len(paths)
    for _ in range(_ROUNDS):
        for place, predictor in enumerate(predictors):
            start = time.perf_counter()
            predictor.check()
            best[place] = min(best[place], time.perf_counter() - start)
    chosen = paths[best.index(min(best))]
    took = {path.name: round(seconds * 1e3, 3) for path, seconds in zip(paths, best, strict=True)}
    logger.info("chose the fastest model", extra={"chosen": chosen.name, "took_ms": took})
    return chosen


def _session(artifact: bytes, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads would take CPU time from the rest of the service.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime's exceptions share no base class
        raise ArtifactError(f"onnxruntime cannot open the model: {exc}") from exc
