"""Lightning without torchmetrics' optional imports.

Lightning needs torchmetrics for its base class alone, but torchmetrics imports SciPy's signal
processing, torchvision's models and Matplotlib for metrics of sound and image quality. While it is
imported here, these are declared absent; they can be imported as ever afterwards. So import this
module instead of ``lightning``. A metric of torchmetrics that needs one of them, or its ``plot``,
says that it is not installed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError
from unittest import mock

import lightning_utilities.core.imports as optional

_LEFT_OUT = frozenset({"matplotlib", "scipy", "torchvision"})


@contextmanager
def _declared_absent() -> Iterator[None]:
    """Answers torchmetrics' queries to lightning_utilities about installed packages."""
    version: Callable[[str], str] = vars(optional)["_version"]
    available = optional.package_available

    def left_out_version(name: str) -> str:
        if name in _LEFT_OUT:
            raise PackageNotFoundError(name)
        return version(name)

    def left_out_available(name: str) -> bool:
        return name not in _LEFT_OUT and available(name)

    with (
        mock.patch.object(optional, "_version", left_out_version),
        mock.patch.object(optional, "package_available", left_out_available),
    ):
        yield


with _declared_absent():
    import lightning
    from lightning import LightningModule, Trainer
    from lightning.fabric.plugins import TorchCheckpointIO
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint
    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

__all__ = [
    "LearningRateFinder",
    "LightningEnvironment",
    "LightningModule",
    "ModelCheckpoint",
    "OptimizerLRSchedulerConfig",
    "TorchCheckpointIO",
    "Trainer",
    "lightning",
]
