"""The same service in BentoML."""

import base64
import io
import os

import bentoml
import numpy as np
import onnxruntime as ort
from PIL import Image


@bentoml.service(workers=int(os.environ["PEER_WORKERS"]), logging={"access": {"enabled": False}})
class Classifier:
    """Takes one base64 image and returns the most probable class."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["PEER_MODEL"], options)

    @bentoml.api
    def predict(self, image: str) -> dict[str, float]:
        """Predicts one image at a time: BentoML's batching would pass every request through another
        process.
        """
        decoded = Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB").resize((32, 32))
        row = self.session.run(["probabilities"], {"images": np.asarray(decoded)[np.newaxis]})[0][0]
        return {"index": int(row.argmax()), "probability": float(row.max())}
