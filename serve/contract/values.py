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
class SignalReference:
    """How one signal of `serve.contract.signals` was distributed over the reference images.

    `edges` increase and cut the values into bins, the last holding what reaches the last edge: bin
    i holds edges[i - 1] <= value < edges[i]. `shares` are of images, one more than edges, and sum
    to one; bins are made to hold about equally many.
    """

    name: str
    mean: float
    std: float
    edges: tuple[float, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class DriftReference:
    """What the model saw and answered on the reference images; live traffic is compared with it."""

    images: int
    class_priors: tuple[float, ...]  # share of images predicted as each class
    signals: tuple[SignalReference, ...]  # in the order of SIGNALS


@dataclass(frozen=True)
class ParityVector:
    """A few images and the answer expected for them: a session that disagrees must not serve."""

    images: bytes  # N*H*W*3, in the order of the model's input
    probabilities: tuple[tuple[float, ...], ...]  # (N, K)
    tolerance: float  # largest |difference| allowed to any probability
