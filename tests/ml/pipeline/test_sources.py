"""Which files Bazel says the stages are made of; these lists exist under Bazel alone."""

from pathlib import Path

import pytest

_LISTS = Path(__file__).absolute().parents[3] / "ml" / "pipeline"
pytestmark = pytest.mark.skipif(
    not (_LISTS / "train.sources").exists(), reason="Bazel makes the lists: bazel test"
)


def sources(stage: str) -> set[str]:
    return set((_LISTS / f"{stage}.sources").read_text().split())


def test_training_is_made_of_the_network_and_not_of_what_comes_after_it() -> None:
    found = sources("train")
    assert {"ml/training/networks.py", "ml/training/fitting.py", "ml/data/datamodule.py"} <= found
    assert "requirements_lock.txt" in found
    assert not found & {
        "ml/artifact/evaluation.py",
        "ml/artifact/export.py",
        "ml/report/page.py",
        "ml/benchmark/main.py",
    }
    assert not [name for name in found if name.startswith("configs/")]


def test_evaluation_is_made_of_the_scores_and_not_of_export() -> None:
    found = sources("evaluate")
    assert {
        "ml/artifact/evaluation.py",
        "ml/training/networks.py",
        "requirements_lock.txt",
    } <= found
    assert not found & {"ml/artifact/export.py", "ml/report/page.py", "ml/training/fitting.py"}


def test_export_is_made_of_export_and_report_with_its_template() -> None:
    found = sources("export")
    assert {"ml/artifact/export.py", "ml/report/page.py", "ml/report/page.html"} <= found
    assert "common/model/artifact.py" in found
    assert not found & {"ml/training/fitting.py", "ml/benchmark/main.py"}


def test_nothing_of_external_packages_is_listed() -> None:
    for stage in ("train", "evaluate", "export", "benchmark"):
        assert not [name for name in sources(stage) if name.startswith((".", "external"))]
