"""The configuration of the next model: the champion's own, with labelled captures in its data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from ml.commands.train import initial_weights
from ml.training.config import CapturedConfig, ConfigError, composed
from ml.training.launch import with_moved_classes

_CHAMPION = "registry:champion"


def champion_config(known: Mapping[str, Any] | None) -> DictConfig:
    """The configuration with which the champion was trained, with the current names of its classes.

    Raises:
        ConfigError: the registry has none.
    """
    if not known:
        raise ConfigError(
            "the champion was registered without its run's configuration: register its run folder, "
            "so that the next model can be made like it"
        )
    found = OmegaConf.create(dict(known))
    assert isinstance(found, DictConfig)
    return with_moved_classes(found)


def base_of(champion: DictConfig) -> DictConfig:
    """The dataset behind a champion: its own, or the base of the captures on which it was
    trained."""
    data = champion.data
    return data.base if data.get("_target_") == CapturedConfig._target_ else data


def starting_weights(reference: str | None, runs: Path) -> Path | None:
    """The champion's weights, if its run is available; None to train from scratch.

    Args:
        reference: a file or a run folder, None for the champion's run, ``none`` for no weights.

    Raises:
        ConfigError: the reference does not exist.
    """
    if reference == "none":
        return None
    try:
        return initial_weights(reference or _CHAMPION, runs)
    except ConfigError:
        if reference:
            raise
        return None


def next_config(
    champion: DictConfig, weights: Path | None, overrides: Sequence[str], until: str
) -> DictConfig:
    """The configuration to train the next model.

    From the champion's weights: ``experiment=finetune``, with the champion's network, loss and
    augmentation. From scratch: the champion's whole recipe.

    Args:
        overrides: as for //ml:train; they take precedence.
        until: the cut-off of captures and labels, ISO 8601.

    Raises:
        ConfigError: an override that the configuration does not accept.
    """
    recipe = ["experiment=finetune"] if weights else ["name=retrained", *_epochs(champion)]
    # The champion's dataset is data.base, where its values can be overridden too.
    base = base_of(champion)
    is_own = _group_of(base) is None and not _names_base(overrides)
    changed = [text for text in overrides if is_own and text.startswith(_BASE)]
    chosen = [] if is_own else _base_overrides(base, overrides)
    given = ["data=captured", "budget=null", *recipe, *chosen]
    given += [text for text in overrides if text not in changed]
    cfg = composed([*given, f"data.until='{until}'"])
    if is_own:
        with open_dict(cfg):
            cfg.data.base = _own_base(base, changed)
    typed = {text.lstrip("+").partition("=")[0].partition(".")[0] for text in overrides}
    with open_dict(cfg):
        parts = ("network", "augmentation") if weights else _RECIPE
        for part in parts:
            if part not in typed and champion.get(part) is not None:
                cfg[part] = champion[part]
        if weights:
            cfg.init_from = str(weights)
    return cfg


_RECIPE = (
    *("network", "augmentation", "optimizer", "label_smoothing", "warmup", "schedule"),
    *("class_weights", "averaging"),
)


def _epochs(champion: DictConfig) -> list[str]:
    epochs = OmegaConf.select(champion, "trainer.max_epochs")
    return [f"trainer.max_epochs={epochs}"] if epochs else []


_BASE = "data.base."


def _group_of(base: DictConfig) -> str | None:
    """The group in configs/data for a dataset of ours; None for a user's own."""
    groups = {"CIFAR10": "cifar10", "ImageFolder": "folder"}
    return groups.get(str(base._target_).rpartition(".")[2])


def _names_base(overrides: Sequence[str]) -> bool:
    return any(text.startswith("data@data.base=") for text in overrides)


def _own_base(base: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """A user's own dataset as it was configured for the champion, with these overrides."""
    given = [text.removeprefix(_BASE) for text in overrides]
    merged = OmegaConf.merge(base, OmegaConf.from_dotlist(given))
    assert isinstance(merged, DictConfig)
    for key, value in (("epochs", "${trainer.max_epochs}"), ("seed", "${seed}")):
        if key in base:
            merged[key] = value
    return merged


def _base_overrides(base: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Overrides that make the champion's dataset the base of a new configuration."""
    if _names_base(overrides):
        return []
    chosen = [f"data@data.base={_group_of(base)}"]
    for key, value in base.items():
        if key in ("_target_", "epochs", "seed") or value is None:
            continue
        text = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        chosen.append(f"data.base.{key!s}={_quoted(text)}")
    return chosen


def _quoted(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(_quoted(one) for one in value) + "]"
    return str(value)
