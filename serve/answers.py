"""Probabilities to what the caller reads."""

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from serve.bodies import Options
from serve.schemas import ClassScore, Prediction

_DECIMALS = 6


def prediction(row: NDArray[np.float32], classes: tuple[str, ...], options: Options) -> Prediction:
    """The K probabilities of one image, named."""
    scores = [round(score, _DECIMALS) for score in row.tolist()]
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[: options.top_k]
    top = [ClassScore(classes[index], index, scores[index]) for index in order]
    best = top[0]
    every: Any = dict(zip(classes, scores, strict=True)) if options.probabilities else msgspec.UNSET
    return Prediction(best.label, best.index, best.probability, top, every)
