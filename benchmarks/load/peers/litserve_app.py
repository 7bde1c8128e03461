"""The same service in LitServe with its batching."""

import base64
import io
import os
from typing import Any

import litserve
import numpy as np
import onnxruntime as ort
from PIL import Image


class Classifier(litserve.LitAPI):
    """Takes one base64 image and returns the most probable class."""

    def setup(self, device: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["PEER_MODEL"], options)

    def decode_request(self, request: dict[str, str]) -> Any:
        image = Image.open(io.BytesIO(base64.b64decode(request["image"])))
        return np.asarray(image.convert("RGB").resize((32, 32)))

    def batch(self, inputs: Any) -> Any:
        return np.stack(inputs)

    def predict(self, images: Any) -> Any:
        return self.session.run(["probabilities"], {"images": images})[0]

    def unbatch(self, rows: Any) -> Any:
        return list(rows)

    def encode_response(self, row: Any) -> Any:
        return {"index": int(row.argmax()), "probability": float(row.max())}


if __name__ == "__main__":
    server = litserve.LitServer(
        Classifier(max_batch_size=16, batch_timeout=0.002),
        accelerator="cpu",
        workers_per_device=int(os.environ["PEER_WORKERS"]),
    )
    server.run(port=int(os.environ["PEER_PORT"]), log_level="error", generate_client_file=False)
