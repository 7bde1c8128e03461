"""`service_image`: the image around a layer of the application."""

load("//tools/image:image.bzl", "python_image")

# What decodes AVIF: the flag //serve/image:formats brings it back, in a layer of its own.
AVIF = [
    "PIL/_avif.*",
    "pillow.libs/libavif-*",
]

# What inference and the formats that the service takes do not read: half of the packages' bytes.
NOT_NEEDED = AVIF + [
    "PIL/_imagingft.*",
    "numpy/distutils/*",
    "numpy/f2py/*",
    "onnxruntime/backend/*",
    "onnxruntime/capi/libonnxruntime.so*",  # for programs in C; the Python module has it all inside
    "onnxruntime/datasets/*",
    "onnxruntime/quantization/*",
    "onnxruntime/tools/*",
    "onnxruntime/transformers/*",
    "pillow.libs/libfreetype-*",
    "pillow.libs/libharfbuzz-*",
]

def service_image(name, application, **kwargs):
    """One image for Lambda and for containers, its layers from the slowest to the fastest to change.

    Args:
      name: name of the image.
      application: the last layer.
      **kwargs: as for every rule.
    """
    python_image(
        name = name,
        title = "kiln",
        # A base that is not AWS's own must say that it may be snapshot.
        labels = {"com.amazonaws.lambda.feature.snapstart": "Allow"},
        entrypoint = [
            "/usr/bin/python3",
            "-I",  # neither PYTHON* variables nor the working folder choose what is imported
            "-B",  # the root is read-only
            "/var/task/serve/image/boot.py",
        ],
        env = {
            "KILN_HOST": "0.0.0.0",
            "KILN_MODEL": "/opt/model",
            "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime would report to its maker
        },
        exposed_ports = ["8000/tcp"],
        tars = [
            "//serve/image:standard_library",
            "//serve/image:packages",
        ] + select({
            "//serve/image:with_avif": ["//serve/image:avif"],
            "//conditions:default": [],
        }) + [
            "//serve/image:model",
            application,
        ],
        workdir = "/var/task",
        **kwargs
    )
