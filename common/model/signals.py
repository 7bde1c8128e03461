"""Image statistics that training records as the reference and the service measures on live traffic.

Written for any array with NumPy's operators: the contract imports the standard library alone.
"""

from typing import Any

# Values per image, in the order of a drift reference: first the model's, then the image's.
CONFIDENCE = "confidence"
IMAGE_SIGNALS = (
    "red_mean",
    "green_mean",
    "blue_mean",
    "red_std",
    "green_std",
    "blue_std",
    "sharpness",
    "colour_noise",
)
SIGNALS = (CONFIDENCE, *IMAGE_SIGNALS)

_FAINTEST = 1e-3  # relative to white; the gradient of a nearly flat image


def image_signals(images: Any) -> dict[str, Any]:
    """The `IMAGE_SIGNALS` of uint8 RGB images, (N, H, W, 3) to float32 (N,) each, N >= 1.

    Means and standard deviations are those of the image's channels scaled to 0..1. `sharpness` is
    how much of the brightness's slopes is fine structure: blur and JPEG lower it, noise raises it.
    `colour_noise` is the fine structure of red minus green, of which camera images have little:
    sensor noise raises it, JPEG and blur lower it. Images under 3 pixels a side have neither (0).

    Source: the second differences are those of Immerkaer 1996, "Fast noise variance estimation".
    """
    pixels = images.astype("float32") / 255
    mean, std = pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2))
    brightness, colour = pixels.mean(axis=3), pixels[..., 0] - pixels[..., 1]
    values = [*mean.T, *std.T]
    values.append(_fine_structure(brightness) / (_slope(brightness) + _FAINTEST))
    values.append(_fine_structure(colour))
    return dict(zip(IMAGE_SIGNALS, values, strict=True))


def _fine_structure(plane: Any) -> Any:
    """Mean |second difference along both axes|: zero on flat areas, ramps and straight edges."""
    rows = plane[:, 2:] - 2 * plane[:, 1:-1] + plane[:, :-2]
    return _mean_size(rows[:, :, 2:] - 2 * rows[:, :, 1:-1] + rows[:, :, :-2])


def _slope(plane: Any) -> Any:
    down, right = plane[:, 1:] - plane[:, :-1], plane[:, :, 1:] - plane[:, :, :-1]
    return _mean_size(down) + _mean_size(right)


def _mean_size(plane: Any) -> Any:
    """Mean |value| of each (H, W) plane, 0 where a plane is empty."""
    return abs(plane).sum(axis=(1, 2)) / max(1, plane.shape[1] * plane.shape[2])
