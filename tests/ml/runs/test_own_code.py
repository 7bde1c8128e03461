"""ml/runs/provenance.py: every file of the user's that a configuration reaches, and no other."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ml.runs.provenance import outside_of_the_build, own_code, own_code_digests

_FILES = {
    "nets.py": "import torch\nimport json\nfrom layers.blocks import Block\n",
    "layers/__init__.py": "from .heads import Head\n",
    "layers/blocks.py": "def late():\n    from .. import nowhere\n    import shared as s\n",
    "layers/heads.py": "class Head: ...\n",
    "shared.py": "from ml.training.module import ImageClassifier\n",
    "unused.py": "import nets\n",
    "space/deep.py": "broken = (\n",
    "callbacks.py": "",
}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An untracked folder on PYTHONPATH; nothing in it could be imported."""
    for name, text in _FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\nraise AssertionError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def _reached(**config: object) -> set[str]:
    return {*own_code(OmegaConf.create(config))}


def test_what_a_target_imports_is_reached_and_nothing_else(mine: Path) -> None:
    network = {"_target_": "nets.Net.build", "width": 8}
    found = own_code(OmegaConf.create({"network": network}))
    expected = {
        "nets": "nets.py",
        "layers": "layers/__init__.py",
        "layers.blocks": "layers/blocks.py",
        "layers.heads": "layers/heads.py",
        "shared": "shared.py",
    }
    assert found == {name: mine / path for name, path in expected.items()}


def test_targets_are_found_at_any_depth(mine: Path) -> None:
    more = {"own": {"_target_": "callbacks.Own", "of": [{"_target_": "space.deep.Thing"}]}}
    assert _reached(callbacks={"more": more}) == {"callbacks", "space.deep"}
    function = {"_target_": "hydra.utils.get_method", "path": "layers.heads.make"}
    assert _reached(optimizer=function) == {"layers", "layers.heads"}


@pytest.mark.parametrize(
    "target",
    ["ml.training.networks.ResNet", "lightning.Trainer", "json.loads", "nowhere.Net", "", "Net"],
)
def test_ours_and_installed_code_is_none_of_the_users(mine: Path, target: str) -> None:
    assert _reached(network={"_target_": target}) == set()


def test_folders_without_init_files_are_packages_at_any_depth(mine: Path) -> None:
    (mine / "outer" / "inner").mkdir(parents=True)
    (mine / "outer" / "inner" / "nets.py").write_text("import callbacks\n")
    assert _reached(network={"_target_": "outer.inner.nets.Net"}) == {
        "outer.inner.nets",
        "callbacks",
    }


def test_what_is_installed_is_known_through_symbolic_links(mine: Path) -> None:
    installed = mine / "store" / "site-packages" / "wheel_of_all"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    (mine / "wheel_of_all").symlink_to(installed)
    assert _reached(network={"_target_": "wheel_of_all.Net"}) == set()


@pytest.mark.parametrize("file", ["nets.py", "layers/heads.py", "shared.py"])
def test_each_file_is_in_the_digests(mine: Path, file: str) -> None:
    config = OmegaConf.create({"network": {"_target_": "nets.Net"}})
    before = own_code_digests(config)
    assert own_code_digests(config) == before
    (mine / file).write_text(_FILES[file] + "# another\n")
    (mine / "unused.py").write_text("")
    after = own_code_digests(config)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {file.removesuffix(".py").replace("/", ".")}


def test_a_build_action_was_given_what_lies_beside_it(mine: Path) -> None:
    config = OmegaConf.create({"a": {"_target_": "callbacks.Own"}, "b": {"_target_": __name__}})
    assert __name__ in own_code(config)
    assert outside_of_the_build(config) == [mine / "callbacks.py"]
