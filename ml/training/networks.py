"""The classifier: a small residual network with a whitening stem, in plain PyTorch."""

from collections.abc import Sequence
from difflib import get_close_matches
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.resources import batch_within_memory


class ResNet(nn.Module):
    """Whitened 2×2 patches, three groups of 3×3 convolutions, global max pooling, a scaled linear
    head.

    Args:
        classes: K, the number of logits.
        widths: channels of each group; each group halves the resolution.
        depths: convolutions in each group; after the first, every two have a residual connection.
        logit_scale: factor on the logits that stabilises the first steps.

    Source: Jordan 2024, arXiv:2404.00498 (the CIFAR-10 speed-run network), after Page 2019
    (whitening) and He et al. 2015, arXiv:1512.03385 (residual connections).
    """

    def __init__(
        self,
        classes: int = 10,
        widths: Sequence[int] = (64, 256, 256),
        depths: Sequence[int] = (2, 2, 2),
        logit_scale: float = 1 / 9,
    ) -> None:
        super().__init__()
        if len(widths) != len(depths):
            raise ValueError(f"widths and depths differ in length: {list(widths)}, {list(depths)}")
        self.stem = WhiteningStem()
        channels = [self.stem.channels, *widths]
        self.groups = nn.Sequential(
            *(
                ConvGroup(*edge, depth)
                for edge, depth in zip(pairwise(channels), depths, strict=True)
            )
        )
        self.head = nn.Linear(widths[-1], classes, bias=False)
        self.logit_scale = logit_scale

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float (N, 3, H, W) -> logits (N, K); any H and W of at least 2 pixels."""
        features: Tensor = self.groups(self.stem(images))
        logits: Tensor = self.head(features.amax((2, 3))) * self.logit_scale
        return logits

    @torch.no_grad()
    def initialise_from(self, images: Tensor) -> None:
        """Fits the stem to normalised training images (N, 3, H, W); a few thousand are enough."""
        self.stem.fit(images)
        first = next(self.groups.parameters())  # its weights
        silent = (self.stem.conv.weight == 0).flatten(1).all(1)[: len(first)]
        if silent.any():  # identity filters, the initial ones, would pass on zeros for ever
            rows = first[: len(silent)]
            rows[silent] = _FAINT * nn.init.kaiming_uniform_(rows[silent])

    @torch.no_grad()
    def scale_logits(self, factor: float) -> None:
        """Multiplies all logits by a factor, permanently; used to calibrate a trained network."""
        self.head.weight.mul_(factor)


_FAINT = 1e-3  # batch normalisation amplifies it, and the first steps train it
_FLAT = 1e-9  # of the largest variance; float32 rounding errors contribute about 1e-14 of it


class WhiteningStem(nn.Module):
    """Projects 2×2 patches on their principal components, with both signs, at unit variance; not
    trained.

    Source: Page 2019, "How to train your ResNet 8", and arXiv:2404.00498, section 3.1.
    """

    def __init__(self, patch: int = 2, in_channels: int = 3) -> None:
        super().__init__()
        self.channels = 2 * in_channels * patch * patch
        self.conv = nn.Conv2d(in_channels, self.channels, patch, bias=False)
        self.conv.weight.requires_grad = False
        self.activation = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised (N, C, H, W) -> (N, channels, H - patch + 1, W - patch + 1), non-negative."""
        features: Tensor = self.activation(self.conv(images))
        return features

    @torch.no_grad()
    def fit(self, images: Tensor, epsilon: float = 5e-4) -> None:
        """Sets the filters from normalised images (N, C, H, W); ``epsilon`` limits the gain along
        directions of low variance.

        Directions without variance, of which grey images have eight, get filters of zero. Otherwise
        batch normalisation would treat their amplified rounding errors as a signal and divide them
        by a variance that vanishes in bfloat16 training.
        """
        patch, values = self.conv.kernel_size[0], self.conv.weight[0].numel()
        moments, count = torch.zeros(values, values, dtype=torch.float64), 0
        for part in images.split(batch_within_memory(images[0].numel(), len(images))):
            patches = part.unfold(2, patch, 1).unfold(3, patch, 1)
            vectors = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, values).double()
            moments += vectors.T @ vectors
            count += len(vectors)
        variances, components = torch.linalg.eigh(moments / count)
        filters = components.T / (variances + epsilon).sqrt().unsqueeze(1)
        filters[variances <= _FLAT * variances.max()] = 0
        filters = filters.reshape(-1, *self.conv.weight.shape[1:])
        self.conv.weight.copy_(torch.cat((filters, -filters)))


class ConvGroup(nn.Module):
    """``depth`` 3×3 convolutions; the first changes the width and is pooled to half the
    resolution."""

    def __init__(self, in_channels: int, out_channels: int, depth: int) -> None:
        super().__init__()
        self.widen = conv3x3(in_channels, out_channels)
        self.pool = HalvingPool()
        self.norm = batch_norm(out_channels)
        self.activation = nn.ReLU(inplace=True)
        self.blocks = nn.ModuleList(
            nn.Sequential(conv3x3(out_channels, out_channels), batch_norm(out_channels))
            for _ in range(depth - 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H // 2, W // 2)."""
        features = self.activation(self.norm(self.pool(self.widen(features))))
        shortcut = features
        for index, block in enumerate(self.blocks):
            features = block(features)
            if closes_pair := index % 2 == 1:
                features = features + shortcut
            features = self.activation(features)
            if closes_pair:
                shortcut = features
        return features


class HalvingPool(nn.Module):
    """2×2 max pooling. Odd feature maps lose their last row and column, except for maps of 3×3 or
    less.

    Those would lose five of nine positions, and the remaining one can be zero in all channels for
    every image of a class: such a class gets no gradient and is never predicted.
    """

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H // 2, W // 2), rounded up where H or W is 3 or less."""
        pooled: Tensor = F.max_pool2d(features, 2, ceil_mode=min(features.shape[-2:]) <= 3)
        return pooled


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A convolution initialised to the identity on as many channels as possible, so that depth
    costs nothing at first."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight[:in_channels])
    return conv


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation without a trained gain, since the next convolution can scale."""
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad = False
    return norm


def find_layer(network: nn.Module, name: str) -> nn.Module:
    """A submodule of a network by its name, such as ``groups.0``.

    Raises:
        ValueError: there is none; the message lists the nearest names.
    """
    layers = {path: layer for path, layer in network.named_modules() if path}
    if name not in layers:
        near = get_close_matches(name, layers, 5, 0.3) or [
            path for path in layers if "." not in path
        ]
        raise ValueError(
            f"{type(network).__name__} has no layer {name}, expected one such as {', '.join(near)}"
        )
    return layers[name]
