"""The compound values in a model artifact's metadata."""

from dataclasses import dataclass

CHANNELS = ("red", "green", "blue")


@dataclass(frozen=True)
class Scores:
    """How the model did on the test set, which it saw once."""

    images: int
    accuracy: float
    macro_f1: float
    loss: float  # mean cross-entropy, nats
    calibration_error: float


@dataclass(frozen=True)
class ChannelStatistics:
    """One colour channel of the reference images, pixel values scaled to 0..1.

    The histograms hold shares (they sum to one) of images, in equal bins: by the image's mean over
    0..1, and by its standard deviation over 0..0.5, the largest that values in 0..1 can have.
    """

    mean: float
    std: float
    image_mean_histogram: tuple[float, ...]
    image_std_histogram: tuple[float, ...]


@dataclass(frozen=True)
class DriftReference:
    """What the model saw and answered on the reference images; live traffic is compared with it."""

    images: int
    class_priors: tuple[float, ...]  # share of images predicted as each class
    confidence_histogram: tuple[
        float, ...
    ]  # share of images by top probability, equal bins over 0..1
    channels: tuple[ChannelStatistics, ...]  # red, green, blue


@dataclass(frozen=True)
class ParityVector:
    """A few images and the answer expected for them: a session that disagrees must not serve."""

    images: bytes  # N*H*W*3, in the order of the model's input
    probabilities: tuple[tuple[float, ...], ...]  # (N, K)
    tolerance: float  # largest |difference| allowed to any probability
