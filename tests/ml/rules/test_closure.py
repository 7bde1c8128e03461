"""What the key of each action is made of: the files behind its program, as Bazel sees them."""

import os
from pathlib import Path

import pytest


def _files(action: str) -> set[str]:
    """Source files of this repository that the action's program is made of."""
    listed = os.environ.get("CLOSURES")
    if listed is None:
        pytest.skip("//tests/ml/rules:*_closure are known under Bazel only")
    paths = {Path(path).name: Path(path) for path in listed.split()}
    return set(paths[f"{action}_closure"].read_text().splitlines())


@pytest.mark.parametrize("action", ["resolve", "fit", "export"])
def test_of_serve_an_action_sees_the_contract_alone(action: str) -> None:
    beyond = {f for f in _files(action) if f.startswith(("serve/", "infra/", "tests/"))}
    assert {f for f in beyond if not f.startswith("common/model/")} == set()


def test_only_resolving_reads_the_configuration_groups() -> None:
    assert any(f.startswith("configs/") for f in _files("resolve"))
    for action in ("fit", "export"):
        assert not [f for f in _files(action) if f.startswith("configs/")]


def test_training_does_not_depend_on_how_its_result_is_exported_and_shown() -> None:
    files = _files("fit")
    assert "ml/training/networks.py" in files
    assert "ml/stages.py" not in files
    assert not [f for f in files if f.startswith(("ml/report/", "ml/commands/"))]
    for name in ("artifact", "evaluation", "export", "quantise", "simplify"):
        assert f"ml/artifact/{name}.py" not in files
    assert not [f for f in files if f.endswith((".html", ".md"))]


def test_exporting_is_keyed_by_the_lock() -> None:
    assert "requirements_lock.txt" in _files("export")
