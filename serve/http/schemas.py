"""Types of requests and responses, which also generate the OpenAPI document."""

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from common.saliency import IMAGES, LARGEST
from serve.settings import MAX_IMAGES

_BASE64 = (
    "A PNG, JPEG, WebP, GIF or BMP file in base64, of either alphabet, in one line or many, with "
    "or without a data URL's beginning."
)
_EXAMPLE = (  # a PNG of 4 x 4 pixels
    "iVBORw0KGgoAAAANSUhEUgAAAAQAAAAECAIAAAAmkwkpAAAAFElEQVR42mN0a9rCAANMDEgANwcASs4BhI2dfVEAAAAASUVO"
    "RK5CYII="
)

TopK = Annotated[
    int, Meta(ge=1, le=1000, description="How many classes to name; all if there are fewer.")
]
Probability = Annotated[float, Meta(ge=0, le=1)]
Milliseconds = Annotated[float, Meta(ge=0)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
RequestId = Annotated[
    str,
    Meta(pattern="^[0-9a-f]{32}$", description="Also the trace id, and the header X-Request-ID."),
]


_SALIENCY = (
    "Whether to show what the answer looked at, by covering parts of the image in turn. "
    f"Counts as {IMAGES} images."
)


class PredictRequest(Struct, forbid_unknown_fields=True):
    """A request with one image."""

    image: Annotated[str, Meta(min_length=1, description=_BASE64, examples=[_EXAMPLE])]
    top_k: TopK = 3
    probabilities: Annotated[bool, Meta(description="Whether to list every class.")] = False
    saliency: Annotated[bool, Meta(description=_SALIENCY)] = False


class BatchRequest(Struct, forbid_unknown_fields=True):
    """Up to a hundred images, each of which succeeds or fails on its own."""

    images: Annotated[
        list[Any],  # one that is no string fails alone, as one that is no image does
        Meta(
            min_length=1,
            max_length=MAX_IMAGES,
            # Without a type: another than a string is answered in its place, too.
            extra_json_schema={"items": {"contentEncoding": "base64", "description": _BASE64}},
        ),
    ]
    top_k: TopK = 3
    probabilities: Annotated[bool, Meta(description="Whether to list every class.")] = False


class ClassScore(Struct):
    """A class and how probable it is."""

    label: str
    index: Annotated[int, Meta(ge=0)]
    probability: Probability


class Prediction(Struct):
    """What the image shows, most probable first."""

    label: str
    index: Annotated[int, Meta(ge=0, description="Place of the label among the model's classes.")]
    probability: Probability
    top_k: list[ClassScore]
    probabilities: dict[str, Probability] | UnsetType = UNSET


class Timing(Struct):
    """Where the time went, within the service."""

    decode_ms: Milliseconds
    queue_ms: Milliseconds
    infer_ms: Annotated[float, Meta(ge=0, description="The run that answered, whole.")]
    total_ms: Milliseconds


SaliencyMap = Annotated[
    list[list[Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]]],
    Meta(
        description=(
            "By how much the natural logarithm of the answer's odds falls when a part of the image "
            "is covered, in rows from the top; negative where it rises. The parts are those of the "
            "image as the model sees it."
        )
    ),
]


class PredictResponse(Prediction, kw_only=True):
    """A prediction, by which model, and how long it took."""

    saliency: SaliencyMap | UnsetType = UNSET

    model_version: Digest
    request_id: RequestId
    timing: Timing


class ItemError(Struct):
    """Why one image of a batch has no prediction, in the words of a problem."""

    type: str
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str
    field: str


class BatchItem(Struct):
    """The prediction or the error for the image at that index."""

    index: Annotated[int, Meta(ge=0, lt=MAX_IMAGES)]
    prediction: Prediction | UnsetType = UNSET
    error: ItemError | UnsetType = UNSET


class BatchResponse(Struct):
    """One item per image, in their order."""

    results: list[BatchItem]
    succeeded: Annotated[int, Meta(ge=0)]
    failed: Annotated[int, Meta(ge=0)]
    model_version: Digest
    request_id: RequestId
    timing: Timing


class Feedback(Struct, forbid_unknown_fields=True):
    """What an answer should have been."""

    request_id: Annotated[
        str,
        Meta(
            pattern="^[0-9a-f]{32}$",
            max_length=32,  # or a line end might stand behind
            description="Of the answer: its request_id, X-Request-ID.",
        ),
    ]
    label: Annotated[
        str, Meta(min_length=1, max_length=200, description="The class that is right, by its name.")
    ]
    index: Annotated[
        int,
        Meta(ge=0, lt=MAX_IMAGES, description="Of the image, where the request had several."),
    ] = 0


class FeedbackResponse(Struct):
    """What is known of the answer now."""

    request_id: RequestId
    index: Annotated[int, Meta(ge=0, lt=MAX_IMAGES)]
    label: str
    is_new: Annotated[bool, Meta(description="False: the same caller had said so before.")]


class Problem(Struct):
    """A problem document (RFC 9457)."""

    type: Annotated[str, Meta(description="urn:kiln:problem: and the kind of error.")]
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
    """How the model did on the test images, which it saw once."""

    images: int
    accuracy: float
    macro_f1: float
    loss: float
    calibration_error: float


class RequestLimits(Struct):
    """What a request may hold."""

    body_bytes: int
    image_pixels: int
    batch_images: int
    saliency_images: Annotated[
        int, Meta(ge=0, description="What an answer with saliency counts as; 0: there is none.")
    ]
    image_types: list[str]


class ModelInfo(Struct):
    """What the served artifact says about itself."""

    name: str
    version: Digest
    classes: list[str]
    input_size: Annotated[list[int], Meta(description="Height and width in pixels.")]
    resize: Annotated[
        str,
        Meta(description="How an image of other proportions is made to fit: crop, stretch, pad."),
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
    """An image to try."""

    label: str
    image: Annotated[str, Meta(description="A PNG as a data URL.")]


class Samples(Struct):
    """Images to try, of the model's own kind."""

    samples: list[Sample]
