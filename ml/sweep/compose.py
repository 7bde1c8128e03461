"""Hydra's compose API over our configurations, with its errors as ours."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ml.config import register_schema
from ml.sweep.config import register_sweep_schema
from ml.sweep.errors import SweepError

CONFIGS = Path(__file__).absolute().parents[2] / "configs"


class _Search:
    extra: list[str] = []  # noqa: RUF012 (set once, before anything is composed)


@contextmanager
def configuration(config_dirs: Sequence[str] = ()) -> Iterator[None]:
    """Makes Hydra know our configurations, and those in further folders."""
    register_schema()
    register_sweep_schema()
    _Search.extra = [f"file://{Path(folder).absolute()}" for folder in config_dirs]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


@contextmanager
def elsewhere(configs: Path) -> Iterator[None]:
    """Within `configuration`: looks into another folder in place of our own."""
    ours = GlobalHydra.instance().hydra
    assert ours is not None
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(configs), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().clear()
        GlobalHydra.instance().initialize(ours)


def hydra_loader() -> ConfigLoader:
    """What knows the groups; within `configuration`."""
    hydra = GlobalHydra.instance()
    assert hydra.is_initialized()
    return hydra.config_loader()


def compose_checked(name: str, overrides: Sequence[str]) -> DictConfig:
    """Hydra's compose; within `configuration`.

    Raises:
        SweepError: with Hydra's reasons.
    """
    search = [f"hydra.searchpath=[{','.join(_Search.extra)}]"] if _Search.extra else []
    try:
        return compose(name, [*overrides, *search])
    except (HydraException, OmegaConfBaseException) as exc:
        reasons = [str(exc).split("\nSee https")[0]]
        if exc.__cause__:
            reasons.append(str(exc.__cause__).split("\n    full_key")[0])
        raise SweepError("\n".join(reasons)) from exc
