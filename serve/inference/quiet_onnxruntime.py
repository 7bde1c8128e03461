"""onnxruntime with its telemetry disabled before it is imported.

Its released wheels do so otherwise: https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

__all__ = ["ort"]
