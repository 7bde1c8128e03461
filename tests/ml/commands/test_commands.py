"""//ml:export and //ml:report as a user meets them, after one small training."""

import io
import re
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

import onnx
import pytest
import torch
from rich.console import Console

from ml.artifact import export, quantise
from ml.artifact.artifact import load_artifact
from ml.behaviour import main as behaviour
from ml.benchmark import main as benchmark
from ml.commands import export as export_command
from ml.commands import report as report_command
from ml.data.cifar10 import dataset_digest
from ml.data.datamodule import CIFAR10
from ml.drift import detect
from ml.drift import evaluate as rates
from ml.pipeline import evaluate
from tests.helpers.program import stand_in
from tests.ml.data.small_dataset import write_dataset
from tests.ml.workspace import Workspace


@pytest.fixture
def run(finished: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a finished run that a test may spoil."""
    monkeypatch.setenv("KILN_CIFAR10", str(finished.path / "dataset"))
    monkeypatch.setattr("sys.executable", stand_in())
    monkeypatch.setattr(quantise, "ACCURACY_TOLERANCE", 0.1)  # one image of 100 is a per cent
    return Path(shutil.copytree(finished.runs[0], tmp_path / "run"))


def _export(*arguments: object) -> tuple[int, str]:
    out = io.StringIO()
    return export_command.main([str(a) for a in arguments], Console(file=out, width=150)), (
        out.getvalue()
    )


def _report(*arguments: object) -> tuple[int, str]:
    out = io.StringIO()
    return report_command.main([str(a) for a in arguments], Console(file=out, width=150)), (
        out.getvalue()
    )


def test_a_finished_run_is_exported_to_the_very_model_that_it_wrote(run: Path) -> None:
    code, said = _export(run)
    assert code == 0, said
    assert (run / "export" / "model.onnx").read_bytes() == (run / "model.onnx").read_bytes()
    small = load_artifact(run / "export" / "model.int8.onnx").metadata
    assert small.quantisation == "int8"
    assert small.version[:12] in said
    assert "max |Δp|" in said


def test_a_checkpoint_is_calibrated_first(run: Path) -> None:
    output = run / "from_checkpoint"
    code, said = _export(run / "checkpoints" / "best.ckpt", "--output", output, "--no-int8")
    assert code == 0, said
    assert re.search(r"temperature \d", said)
    full, again = load_artifact(run / "model.onnx"), load_artifact(output / "model.onnx")
    assert again.metadata.test_metrics == full.metadata.test_metrics
    assert [path.name for path in output.iterdir()] == ["model.onnx"]


def test_an_unfinished_run_is_exported_from_its_best_checkpoint(run: Path) -> None:
    for name in ("network.pt", "summary.json", "model.onnx"):
        (run / name).unlink()
    code, said = _export(run, "--no-int8")
    assert code == 0, said
    assert "best.ckpt" in said


def test_what_disagrees_with_pytorch_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "PARITY_TOLERANCE", 0.0)
    code, said = _export(run)
    assert code == export_command.REFUSED
    assert "ONNX and PyTorch differ by" in said
    assert not (run / "export").exists()


def test_an_int8_model_that_loses_too_much_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantise, "ACCURACY_TOLERANCE", -1.0)
    code, said = _export(run)
    assert code == export_command.REFUSED
    assert "INT8 is right on" in said
    assert [path.name for path in (run / "export").iterdir()] == ["model.onnx"]


def test_a_dataset_of_other_classes_is_told_before_the_shapes_of_another_network(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CIFAR10, "classes", CIFAR10.classes[:9])
    code, said = _export(run)
    assert code == export_command.BAD_INPUT
    assert "was trained on the classes" in said


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda run: shutil.rmtree(run), "there is no such file or folder"),
        (lambda run: (run / "config.yaml").unlink(), "not in a run folder"),
        (lambda run: (run / "network.pt").write_bytes(b"PK"), "holds no readable weights"),
        (
            lambda run: torch.save({"a": torch.zeros(1)}, run / "network.pt"),
            "are of another network",
        ),
        (lambda run: torch.save([1], run / "network.pt"), "expected weights by name"),
    ],
)
def test_bad_input_is_explained(run: Path, spoil: object, complaint: str) -> None:
    assert callable(spoil)
    spoil(run)
    code, said = _export(run)
    assert code == export_command.BAD_INPUT
    assert complaint in said
    assert not (run / "export").exists()


def test_an_empty_folder_is_told_what_is_expected(tmp_path: Path) -> None:
    code, said = _export(tmp_path)
    assert code == export_command.BAD_INPUT
    assert "expected network.pt, checkpoints/best.ckpt" in said


def test_a_report_is_drawn_anew_with_a_card(run: Path) -> None:
    (run / "report.html").unlink()
    shutil.rmtree(run / "plots")
    code, said = _report(run)
    assert code == 0, said
    version = load_artifact(run / "model.onnx").metadata.version
    for name in ("report.html", "model_card.html", "MODEL_CARD.md"):
        assert version in (run / name).read_text()
        assert name in said
    assert (run / "plots" / "confusion_matrix.png").is_file()


def test_the_card_of_a_run_knows_its_small_model(run: Path) -> None:
    _export(run)
    _report(run)
    small = load_artifact(run / "export" / "model.int8.onnx").metadata
    assert small.version[:12] in (run / "MODEL_CARD.md").read_text()


def _tampered(run: Path) -> None:
    model = onnx.load(run / "model.onnx")
    weights = next(w for w in model.graph.initializer if len(w.raw_data) > 64)
    weights.raw_data = bytes(64) + weights.raw_data[64:]
    onnx.save(model, run / "model.onnx")


def _truncated(run: Path) -> None:
    model = run / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1000])


def _foreign(run: Path) -> None:
    model = onnx.load(run / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, run / "model.onnx")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (_tampered, "the model was changed after export"),
        (_truncated, "truncated"),
        (_foreign, "foreign ONNX model"),
        (lambda run: (run / "summary.json").unlink(), "has not finished"),
    ],
)
def test_a_model_that_is_not_what_was_exported_is_refused(
    run: Path, spoil: object, complaint: str
) -> None:
    assert callable(spoil)
    spoil(run)
    before = (run / "report.html").read_bytes()
    code, said = _report(run)
    assert code == report_command.BAD_INPUT
    assert complaint in said
    assert (run / "report.html").read_bytes() == before
    assert not (run / "MODEL_CARD.md").exists()


_COMMANDS: dict[str, Callable[[Path, Console], int]] = {
    "behaviour": lambda run, console: behaviour.main(["--model", str(run)], console),
    "benchmark": lambda run, console: benchmark.main([str(run), "--quick"], console),
    "drift": lambda run, console: detect.main(["--model", str(run), "--test-set"], console),
    "drift, evaluated": lambda run, console: rates.main(["--model", str(run)], console),
    "evaluate": lambda run, console: evaluate.main([str(run)], console),
    "export": lambda run, console: export_command.main([str(run)], console),
    "report": lambda run, console: report_command.main([str(run)], console),
}


@pytest.mark.parametrize("command", _COMMANDS)
def test_no_command_judges_a_model_by_other_data(
    run: Path, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_dataset(tmp_path / "other", train=300, test=100, seed=3)
    monkeypatch.setenv("KILN_CIFAR10", str(other))
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    out = io.StringIO()
    with redirect_stderr(out):
        code = _COMMANDS[command](run, Console(file=out, width=150))
    assert code == 2, out.getvalue()
    assert dataset_digest(other)[:16] in out.getvalue()
    assert not any((run / name).exists() for name in ("export", "evaluation", "MODEL_CARD.md"))


def test_a_model_that_does_not_score_what_it_says_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_command, "_SCORE_TOLERANCE", -1.0)
    code, said = _report(run)
    assert code == report_command.REFUSED
    assert "tested on another dataset" in said


def test_other_names_of_the_same_classes_are_noticed(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CIFAR10, "classes", CIFAR10.classes[::-1])
    code, said = _export(run)
    assert (code, "airplane" in said) == (2, True)


@pytest.mark.parametrize(
    "main", [export_command.main, report_command.main], ids=["export", "report"]
)
def test_help_shows_how_it_is_typed(main: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(main)
    with pytest.raises(SystemExit) as leaving:
        main(["--help"], Console())
    assert leaving.value.code == 0
    assert "runs/<folder>" in capsys.readouterr().out
