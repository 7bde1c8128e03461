"""What params.yaml means to Hydra."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from ml.pipeline.layout import STAGES, ChoicesError, read_choices
from ml.pipeline.prepare import overrides, prepare, read_dataset, resolve
from ml.training.config import ConfigError
from tests.ml.data.small_dataset import write_photos

ROOT = Path(__file__).absolute().parents[3]
CONFIGS = ROOT / "configs"


def test_the_checked_in_choices_mean_the_default_training() -> None:
    cfg = resolve(read_choices(ROOT / "params.yaml", "train"), CONFIGS)
    assert cfg.name == "default"
    assert cfg == resolve({}, CONFIGS)


def test_a_preset_and_values_over_it_are_resolved() -> None:
    cfg = resolve({"experiment": "smoke", "data": {"batch_size": 125}, "seed": 3}, CONFIGS)
    assert (cfg.name, cfg.data.batch_size, cfg.data.seed) == ("smoke", 125, 3)
    assert "paths" not in cfg


def test_nested_choices_become_what_people_type() -> None:
    choices = {"experiment": "smoke", "data": {"sizes": [16, 32], "train_size": None}, "seed": 1}
    assert list(overrides(choices)) == [
        "experiment='smoke'",
        "data.sizes=[16,32]",
        "data.train_size=null",
        "seed=1",
    ]


@given(
    st.text(
        st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), min_size=1, max_size=12
    )
)
def test_hydra_reads_a_text_as_it_was_written(name: str) -> None:
    [override] = OverridesParser.create().parse_overrides(list(overrides({"name": name})))
    assert override.value() == name


def test_a_text_reaches_the_configuration_as_it_was_written() -> None:
    folder = "it's \\'quoted\\, {a: [1], $x}"
    assert resolve({"data": {"folder": folder}}, CONFIGS).data.folder == folder


def test_another_dataset_than_the_pinned_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(CONFIGS, tmp_path / "configs")
    (tmp_path / "configs" / "data" / "mine.yaml").write_text("_target_: mine.Shapes\n")
    (tmp_path / "params.yaml").write_text("dataset: ml/data\ntrain: {data: mine}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"data\._target_=mine\.Shapes: expected"):
        prepare(tmp_path)
    assert not (tmp_path / "pipeline").exists()


def test_a_table_is_read_among_its_photos_and_is_no_dataset_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(CONFIGS, tmp_path / "configs")
    photos = write_photos(tmp_path / "photos", ("cat", "dog"), each=6)
    names = sorted(path.relative_to(photos) for path in photos.rglob("*.*"))
    rows = "".join(f"{name},{name.parent}\n" for name in names if name.stem != "0")
    (photos / "labels.csv").write_text(f"path,label\n{rows}")
    for stage in STAGES[1:]:
        (tmp_path / f"{stage}.sources").write_text("")
    (tmp_path / "dvc.yaml").write_text("stages: {prepare: {deps: []}}\n")
    (params := tmp_path / "params.yaml").write_text(
        "dataset: photos\ntrain: {data: {folder: photos/labels.csv, image_size: 16}}\n"
    )
    monkeypatch.setenv("KILN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    counts = json.loads((tmp_path / "pipeline/metrics/data.json").read_text())
    assert (counts["train_images"], counts["test_images"]) == (8, 2)
    params.write_text("dataset: photos/labels.csv\ntrain: {}\n")
    with pytest.raises(ChoicesError, match=r"photos.*train\.data\.folder: photos/lab"):
        prepare(tmp_path)


def test_code_that_the_pipeline_does_not_know_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(CONFIGS, tmp_path / "configs")
    (tmp_path / "configs" / "network" / "mine.yaml").write_text("_target_: own_nets.Net\n")
    (tmp_path / "params.yaml").write_text("dataset: ml/data\ntrain: {network: mine}\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own_nets.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ml.pipeline.prepare.read_pin", _reached)
    stages = "stages:\n  prepare:\n    deps:\n    - ml\n"
    (tmp_path / "dvc.yaml").write_text(stages)
    with pytest.raises(ConfigError, match=r"own_nets\.py: .*deps of prepare"):
        prepare(tmp_path)
    (tmp_path / "dvc.yaml").write_text(f"{stages}    - mine\n")
    with pytest.raises(FileNotFoundError, match=r"\.sources"):
        prepare(tmp_path)


def _reached(path: Path) -> Any:
    return SimpleNamespace(check=lambda folder: None)


@pytest.mark.parametrize("dataset", ["3", "null", "/photos", "../photos", "[a, b]"])
def test_a_dataset_outside_of_the_workspace_is_refused(tmp_path: Path, dataset: str) -> None:
    (path := tmp_path / "params.yaml").write_text(f"dataset: {dataset}\n")
    with pytest.raises(ChoicesError, match=r"dataset is .*, expected a folder in this workspace"):
        read_dataset(path)


def test_image_files_are_chosen_before_what_is_said_of_them() -> None:
    cfg = resolve({"data": {"image_size": 16}}, CONFIGS, Path("my photos"))
    assert (cfg.data.folder, cfg.data.image_size) == ("my photos", 16)
    assert cfg.data._target_ == "ml.data.folder.ImageFolder"


@pytest.mark.parametrize(
    ("choices", "complaint"),
    [
        ({"experiment": "smok"}, "Could not find 'experiment/smok'"),
        ({"sed": 1}, "Key 'sed' not in 'Config'"),
        ({"seed": "one"}, "Value 'one' of type 'str' could not be converted to Integer"),
        ({"seed": -1}, "seed=-1: expected a value in"),
        ({"name": "???"}, "without a value: name"),
    ],
)
def test_a_choice_that_the_configuration_does_not_take_is_explained(
    choices: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        resolve(choices, CONFIGS)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("train: 3\n", "needs a section 'train:'"),
        ("- 1\n", "needs a section 'train:'"),
        ("a: [\n", r"params\.yaml"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_named(
    tmp_path: Path, text: str, complaint: str
) -> None:
    path = tmp_path / "params.yaml"
    with pytest.raises(ChoicesError, match=r"params\.yaml"):
        read_choices(path, "train")
    path.write_text(text)
    with pytest.raises(ChoicesError, match=complaint):
        read_choices(path, "train")
