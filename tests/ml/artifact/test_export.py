"""ml/artifact/export.py and ml/artifact/simplify.py: from a trained network to a faithful
artifact, or to nothing."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from ml.artifact import export
from ml.artifact.artifact import canonical, load_artifact
from ml.artifact.evaluation import torch_probabilities
from ml.artifact.export import (
    PARITY_TOLERANCE,
    PROVED_BATCHES,
    ExportReport,
    ParityError,
    ServingGraph,
    parity_gap,
)
from ml.artifact.simplify import Simplified, simplify
from tests.ml.artifact.small_model import CLASSES, MEAN, STD, Sample, exported, sample


@pytest.fixture(scope="module")
def trained() -> Sample:
    return sample()


@pytest.fixture(scope="module")
def report() -> ExportReport:
    return exported()


@pytest.fixture
def _translated(report: ExportReport, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the seconds of a translation to ONNX whose result is known."""
    monkeypatch.setattr(export, "to_onnx", lambda *_: canonical(onnx.load(report.path)))


def test_onnx_answers_like_pytorch_at_every_batch_size(
    trained: Sample, report: ExportReport
) -> None:
    artifact = load_artifact(report.path)
    for batch in PROVED_BATCHES:
        images = trained.images[:batch]
        expected = torch_probabilities(trained.network, images, MEAN, STD)
        answer = artifact.predict(images)
        assert answer.probabilities.shape == (batch, len(CLASSES))
        np.testing.assert_allclose(answer.probabilities, expected, atol=1e-5)
        softmax = torch.softmax(torch.from_numpy(answer.logits), dim=1).numpy()
        np.testing.assert_allclose(softmax, answer.probabilities, atol=1e-6)


def test_the_report_says_what_was_measured(trained: Sample, report: ExportReport) -> None:
    assert 0 < report.parity <= PARITY_TOLERANCE
    assert report.simplification.startswith("simplified: ")
    assert report.size_bytes == report.path.stat().st_size
    assert report.evaluation.images == report.metadata.test_metrics.images == len(trained.images)


def test_the_file_is_a_valid_onnx_model_of_the_stated_opset(report: ExportReport) -> None:
    model = onnx.load(report.path)
    onnx.checker.check_model(model, full_check=True)
    assert {o.domain: o.version for o in model.opset_import}[""] == report.metadata.opset


def test_the_file_tells_nothing_of_the_machine_that_wrote_it(report: ExportReport) -> None:
    content = report.path.read_bytes()
    for trace in (b".py", b"stack_trace", str(Path(__file__).parents[3]).encode(), b"SmallNet"):
        assert trace not in content


def test_the_serving_graph_normalises_as_training_does(trained: Sample) -> None:
    images = torch.from_numpy(trained.images)
    _, probabilities = ServingGraph(trained.network, MEAN, STD).eval()(images)
    expected = trained.probabilities()
    np.testing.assert_allclose(probabilities.detach().numpy(), expected, atol=1e-6)


def test_the_same_weights_give_the_same_bytes_in_another_process(
    report: ExportReport, tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from ml.artifact.export import export_artifact;"
        "from tests.ml.artifact.small_model import sample; s = sample();"
        "s.export(Path(sys.argv[1]))"
    )
    path = os.pathsep.join(filter(None, sys.path))
    again = tmp_path / "again.onnx"
    subprocess.run(
        [sys.executable, "-c", code, str(again)],
        env=os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "7"},
        check=True,
    )
    assert digest(again) == digest(report.path)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_network_of_half_precision_is_exported_in_full_and_left_as_it_was(
    trained: Sample, report: ExportReport, tmp_path: Path
) -> None:
    network = sample().network.bfloat16().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    half = trained.export(tmp_path / "half.onnx", network)
    assert half.parity <= PARITY_TOLERANCE
    assert half.metadata.version != report.metadata.version
    assert network.training
    assert next(network.parameters()).dtype is torch.bfloat16
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.usefixtures("_translated")
def test_a_model_that_disagrees_with_pytorch_is_not_written(
    trained: Sample, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    wrong = trained.probabilities(sample(seed=3).network)
    with pytest.raises(ParityError, match=r"0.0001;"):
        trained.export(path, probabilities=wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_answers_nan_is_not_written(trained: Sample, tmp_path: Path) -> None:
    network = sample(seed=1).network
    nn.init.constant_(next(network.parameters()), float("nan"))
    with pytest.raises(ValueError, match="sum to one"):
        trained.export(tmp_path / "model.onnx", network)
    assert list(tmp_path.iterdir()) == []


def test_parity_covers_every_image(trained: Sample, report: ExportReport) -> None:
    expected = trained.probabilities()
    expected[-1] += [0.5, -0.5, 0, 0]
    model = onnx.load(report.path)
    assert parity_gap(model, trained.images, expected) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.usefixtures("_translated")
def test_a_simplified_model_that_loses_parity_is_replaced_by_the_full_one(
    trained: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(model: onnx.ModelProto) -> Simplified:
        other = canonical(model)
        for weights in (w for w in other.graph.initializer if len(w.dims) == 4):  # of convolutions
            weights.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weights), weights.name))
        return Simplified(other, True, "simplified: and spoiled")

    monkeypatch.setattr(export, "simplify", spoil)
    path = tmp_path / "model.onnx"
    kept = trained.export(path)
    assert kept.simplification.startswith("kept unsimplified: simplification moved a probability")
    assert kept.parity <= PARITY_TOLERANCE


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed with signal 11"),
        ("import time; time.sleep(60)", "took longer than 1 s"),
        ("import sys; sys.exit('no such luck')", "failed with exit code 1: no such luck"),
        ("pass", "left no readable model"),
        ("import sys; open(sys.argv[2], 'w').write('?')", "left no readable model"),
    ],
)
def test_whatever_the_simplifier_does_the_model_survives(program: str, reason: str) -> None:
    model = onnx.ModelProto(ir_version=10)
    result = simplify(model, timeout_s=1, command=("-c", program))
    assert (result.model, result.succeeded) == (model, False)
    assert result.note.startswith(f"kept unsimplified: the simplifier {reason}")
