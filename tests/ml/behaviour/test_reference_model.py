"""The bundled model behaves: invariance, its weakest class, calibration, modesty about garbage."""

import pytest
from rich.console import Console

from common.terminal import Progress
from ml.artifact.artifact import BUNDLED, Artifact, load_artifact
from ml.behaviour.checks import BehaviourLimits, Check
from ml.behaviour.main import check_model
from ml.runs.datasets import dataset_of_file


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return load_artifact(BUNDLED, threads=1)


@pytest.fixture(scope="module")
def checks(artifact: Artifact) -> dict[str, Check]:
    test = dataset_of_file(BUNDLED, artifact.metadata).read("test")
    with Progress("answering", console=Console(quiet=True)) as progress:
        found = check_model(artifact, test, 500, BehaviourLimits(), progress)
    return {check.name: check for check in found}


@pytest.mark.parametrize(
    "name",
    [
        "accuracy",
        "class floor",
        "calibration error",
        "stated accuracy",
        "flip",
        "shift",
        "brightness",
        "garbage",
    ],
)
def test_the_bundled_model_keeps_its_limit(checks: dict[str, Check], name: str) -> None:
    check = checks[name]
    assert check.passed, f"{name}: {check.value:.4f}, limit {check.limit}: {check.meaning}"


def test_it_is_stated_what_it_was_measured_on(artifact: Artifact) -> None:
    assert artifact.metadata.test_metrics.images == 10_000
    assert artifact.metadata.drift_reference.images == 10_000
