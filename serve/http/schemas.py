"""Request and response types, from which the OpenAPI document is generated."""

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from common.saliency import IMAGES, LARGEST
from serve.settings import MAX_IMAGES

_BASE64 = (
    "A PNG, JPEG, WebP, GIF or BMP file in base64, standard or URL-safe, with or without line "
    "breaks and a data URL prefix."
)
_EXAMPLE = (  # a PNG of 4 x 4 pixels
    "iVBORw0KGgoAAAANSUhEUgAAAAQAAAAECAIAAAAmkwkpAAAAFElEQVR42mN0a9rCAANMDEgANwcASs4BhI2dfVEAAAAASUVO"
    "RK5CYII="
)

TopK = Annotated[
    int, Meta(ge=1, le=1000, description="Number of classes to return; all if there are fewer.")
]
Probability = Annotated[float, Meta(ge=0, le=1)]
Milliseconds = Annotated[float, Meta(ge=0)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
RequestId = Annotated[
    str,
    Meta(pattern="^[0-9a-f]{32}$", description="Also the trace id, and the header X-Request-ID."),
]


_SALIENCY = f"Whether to compute an occlusion saliency map. Counts as {IMAGES} images."


class PredictRequest(Struct, forbid_unknown_fields=True):
    """A request with one image."""

    image: Annotated[str, Meta(min_length=1, description=_BASE64, examples=[_EXAMPLE])]
    top_k: TopK = 3
    probabilities: Annotated[bool, Meta(description="Whether to return every class.")] = False
    saliency: Annotated[bool, Meta(description=_SALIENCY)] = False


class BatchRequest(Struct, forbid_unknown_fields=True):
    """Up to a hundred images, each of which succeeds or fails on its own."""

    images: Annotated[
        list[Any],  # a non-string fails alone, like an invalid image
        Meta(
            min_length=1,
            max_length=MAX_IMAGES,
            # Without a type: a non-string becomes an error at its index.
            extra_json_schema={"items": {"contentEncoding": "base64", "description": _BASE64}},
        ),
    ]
    top_k: TopK = 3
    probabilities: Annotated[bool, Meta(description="Whether to return every class.")] = False


class ClassScore(Struct):
    """A class and its probability."""

    label: str
    index: Annotated[int, Meta(ge=0)]
    probability: Probability


class Prediction(Struct):
    """The predicted classes, most probable first."""

    label: str
    index: Annotated[int, Meta(ge=0, description="Index of the label in the model's classes.")]
    probability: Probability
    top_k: list[ClassScore]
    probabilities: dict[str, Probability] | UnsetType = UNSET


class Timing(Struct):
    """Durations within the service."""

    decode_ms: Milliseconds
    queue_ms: Milliseconds
    infer_ms: Annotated[float, Meta(ge=0, description="The complete model run.")]
    total_ms: Milliseconds


SaliencyMap = Annotated[
    list[list[Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]]],
    Meta(
        description=(
            "Decrease of the predicted class's log odds when a part of the image is covered, in "
            "rows from the top; negative where they rise. The parts are those of the image as the "
            "model sees it."
        )
    ),
]


class PredictResponse(Prediction, kw_only=True):
    """A prediction, its model, and its duration."""

    saliency: SaliencyMap | UnsetType = UNSET

    model_version: Digest
    request_id: RequestId
    timing: Timing


class ItemError(Struct):
    """Why one image of a batch has no prediction, as in a problem document."""

    type: str
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str
    field: str


class BatchItem(Struct):
    """The prediction or error of the image at that index."""

    index: Annotated[int, Meta(ge=0, lt=MAX_IMAGES)]
    prediction: Prediction | UnsetType = UNSET
    error: ItemError | UnsetType = UNSET


class BatchResponse(Struct):
    """One item per image, in order."""

    results: list[BatchItem]
    succeeded: Annotated[int, Meta(ge=0)]
    failed: Annotated[int, Meta(ge=0)]
    model_version: Digest
    request_id: RequestId
    timing: Timing


class Feedback(Struct, forbid_unknown_fields=True):
    """The correct label of a prediction."""

    request_id: Annotated[
        str,
        Meta(
            pattern="^[0-9a-f]{32}$",
            max_length=32,  # otherwise a trailing line break would match
            description="The prediction's request_id, X-Request-ID.",
        ),
    ]
    label: Annotated[
        str, Meta(min_length=1, max_length=200, description="Name of the correct class.")
    ]
    index: Annotated[
        int,
        Meta(ge=0, lt=MAX_IMAGES, description="Index of the image, if the request had several."),
    ] = 0


class FeedbackResponse(Struct):
    """The stored label."""

    request_id: RequestId
    index: Annotated[int, Meta(ge=0, lt=MAX_IMAGES)]
    label: str
    is_new: Annotated[bool, Meta(description="False: the same caller had sent this label before.")]


class Problem(Struct):
    """A problem document (RFC 9457)."""

    type: Annotated[str, Meta(description="urn:kiln:problem: followed by the kind of error.")]
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: Annotated[str, Meta(description="What is wrong, and what was expected.")]
    request_id: RequestId
    model_version: Digest
    field: (
        Annotated[str, Meta(description="The part of the request, as images[3].")] | UnsetType
    ) = UNSET


class Status(Struct):
    """The state of the service."""

    status: str
    model_version: Digest


class TestMetrics(Struct):
    """Metrics on the test set, which is used once."""

    images: int
    accuracy: float
    macro_f1: float
    loss: float
    calibration_error: float


class RequestLimits(Struct):
    """Limits of a request."""

    body_bytes: int
    image_pixels: int
    batch_images: int
    saliency_images: Annotated[
        int, Meta(ge=0, description="What a prediction with saliency counts as; 0: unavailable.")
    ]
    image_types: list[str]


class ModelInfo(Struct):
    """The served artifact's metadata."""

    name: str
    version: Digest
    classes: list[str]
    input_size: Annotated[list[int], Meta(description="Height and width in pixels.")]
    resize: Annotated[
        str, Meta(description="How images of other aspect ratios are fitted: crop, stretch, pad.")
    ]
    quantisation: str
    opset: int
    git_revision: str
    config_digest: str
    dataset_digest: str
    lock_digest: str
    device: str
    precision: str
    test_metrics: TestMetrics
    limits: RequestLimits


class Sample(Struct):
    """A sample image."""

    label: str
    image: Annotated[str, Meta(description="A PNG as a data URL.")]


class Samples(Struct):
    """Sample images of the model's domain."""

    samples: list[Sample]
