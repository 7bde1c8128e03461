"""A network with the operators that a small ResNet exports, and images it has opinions about."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.model.artifact import Provenance
from ml.artifact.evaluation import Labelled, torch_probabilities
from ml.artifact.export import ExportReport, export_artifact

CLASSES = ("plane", "car", "bird", "cat")
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
PROVENANCE = Provenance("a" * 40, "b" * 64, "c" * 32, "d" * 64, "cpu", "32-true")


class Block(nn.Module):
    """Convolution, pooling, normalisation, GELU and a residual branch."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Halve the size."""
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs, momentum=1.0) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H / 2, W / 2)."""
        x = nn.functional.gelu(self.norms[0](nn.functional.max_pool2d(self.first(x), 2)))
        return nn.functional.gelu(x + self.norms[1](self.second(x)))


class SmallNet(nn.Module):
    """Two blocks, global maximum, scaled linear head."""

    def __init__(self, width: int = 8) -> None:
        """Draw weights from the global generator."""
        super().__init__()
        self.stem = nn.Conv2d(3, width, 2)
        self.blocks = nn.Sequential(Block(width, width), Block(width, 2 * width))
        self.head = nn.Linear(2 * width, len(CLASSES), bias=False)

    def features(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, C)."""
        return torch.as_tensor(self.blocks(torch.relu(self.stem(x))).amax((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, K)."""
        return torch.as_tensor(self.head(self.features(x)) * 0.5)


@dataclass(frozen=True)
class Sample:
    """A network in eval mode with data of its size."""

    network: nn.Module
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    @property
    def test(self) -> Labelled:
        """The data as what the network is judged by."""
        return Labelled(self.images, self.labels)

    def probabilities(self, network: nn.Module | None = None) -> NDArray[np.float32]:
        """What this network, or another, answers."""
        return torch_probabilities(network or self.network, self.images, MEAN, STD)

    def export(
        self,
        path: Path,
        network: nn.Module | None = None,
        probabilities: NDArray[np.float32] | None = None,
    ) -> ExportReport:
        """Writes the artifact of this network, or of another; `probabilities` are taken for its
        answers."""
        answers = self.probabilities(network) if probabilities is None else probabilities
        return export_artifact(
            network or self.network,
            path,
            name="small",
            classes=CLASSES,
            mean=MEAN,
            std=STD,
            provenance=PROVENANCE,
            test=self.test,
            probabilities=answers,
        )


_FOLDER = TemporaryDirectory(prefix="kiln-small-model-")


@cache
def exported() -> ExportReport:
    """The artifact of `sample()`, written once for all tests of a process, which leave it alone."""
    return sample().export(Path(_FOLDER.name) / "model.onnx")


def sample(seed: int = 0, images: int = 120, size: int = 16) -> Sample:
    """Each class brightens another channel, or all; norms and head are fitted to the data."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(CLASSES), images)
    pixels = rng.integers(0, 160, (images, size, size, 3))
    for image, label in zip(pixels, labels, strict=True):
        image[..., label if label < 3 else slice(3)] += 90
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = SmallNet()
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        network.train()(x)
        targets = 8 * nn.functional.one_hot(torch.from_numpy(labels), len(CLASSES)).float()
        fitted = torch.linalg.lstsq(network.eval().features(x), targets).solution
        network.head.weight.copy_(fitted.T)
    return Sample(network.eval(), pixels.astype(np.uint8), labels)
