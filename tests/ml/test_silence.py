"""Commands that work for long say so, also where nobody sees a live bar."""

import builtins
import importlib
import io
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from ml import stages
from ml.commands import cross_validate, data, train
from ml.commands.report import FinishedError
from ml.data.cifar10 import DatasetError
from ml.pipeline import evaluate, export, prepare, runner
from ml.registry import main as registry
from ml.registry.ledger import RegistryError
from ml.runs.folder import RunFolder
from ml.runs.loading import TrainedError
from ml.training import fitting


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("common.terminal.EVERY_S", 0.01)
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))


def _lasting_until_something_is_said(
    said: Callable[[], str], error: Exception
) -> Callable[..., Any]:
    """Work of which somebody has to hear before it ends, in an error."""

    def work(*arguments: object, **options: object) -> None:
        end = time.monotonic() + 60
        while not ("still " in said() or " so far" in said()):
            assert time.monotonic() < end, said()
            time.sleep(0.01)
        raise error

    return work


@pytest.mark.parametrize(
    ("module", "step", "error", "arguments"),
    [
        ("ml.behaviour.main", "check_model", DatasetError("gone"), []),
        ("ml.benchmark.main", "gather", TrainedError("gone"), []),
        ("ml.commands.export", "open_trained", TrainedError("gone"), ["run"]),
        ("ml.commands.report", "open_finished", FinishedError("gone"), ["run"]),
        ("ml.drift.detect", "dataset_of_file", DatasetError("gone"), ["--test-set"]),
        ("ml.drift.evaluate", "measure_windows", ValueError("gone"), ["--images=50"]),
        ("ml.drift.evaluate", "measure_streams", ValueError("gone"), ["--online", "--images=50"]),
        ("ml.bundled.adopt", "open_finished", FinishedError("gone"), ["run"]),
    ],
)
def test_a_command_says_that_it_is_at_work(
    module: str,
    step: str,
    error: Exception,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program: Any = importlib.import_module(module)
    text = io.StringIO()
    monkeypatch.setattr(program, step, _lasting_until_something_is_said(text.getvalue, error))
    if "--images=50" in arguments:
        arguments = [*arguments, "--corruptions=noise", "--severities=1"]
    assert program.main(arguments, Console(file=text, width=140)) in (1, 2)
    assert "gone" in text.getvalue()


def test_a_training_says_that_it_concludes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = io.StringIO()
    fitted = SimpleNamespace(
        data=None,
        module=SimpleNamespace(network=None),
        trainer=SimpleNamespace(is_global_zero=True, callbacks=[]),
    )
    monkeypatch.setattr(fitting, "fit", lambda *_, **__: fitted)
    monkeypatch.setattr(fitting, "finish", lambda *_: {})
    work = _lasting_until_something_is_said(text.getvalue, DatasetError("gone"))
    monkeypatch.setattr(stages, "conclude", work)
    cfg = OmegaConf.create({"logger": None, "trainer": {}})
    with pytest.raises(DatasetError):
        stages.train(cfg, RunFolder(tmp_path), Console(file=text, width=140))


_HEAVY = {("ml", "stages"), ("ml.data", "datamodule"), ("ml.training.presets", "Presets")}


@pytest.mark.parametrize(
    "load",
    [
        lambda cfg: train._train(cfg, RunFolder(Path()), Console()),
        lambda cfg: train._configurations(cfg),
        lambda cfg: cross_validate.cross_validate(cfg, 2, Console(file=io.StringIO())),
        lambda _: data.main(["inspect"], Console(stderr=True)),
    ],
    ids=["train", "train, budget", "cross_validate", "inspect"],
)
def test_a_command_says_that_it_loads_pytorch(
    load: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = io.StringIO()
    monkeypatch.setattr(sys, "stderr", text)
    work = _lasting_until_something_is_said(text.getvalue, DatasetError("gone"))
    known = builtins.__import__

    def slow(name: str, *rest: Any) -> Any:
        names = {(name, one) for one in (rest[2] if len(rest) > 2 else None) or ()}
        return work() if names & _HEAVY else known(name, *rest)

    monkeypatch.setattr(builtins, "__import__", slow)
    with suppress(DatasetError):
        load(OmegaConf.create({"name": "a", "paths": {"runs": "runs"}}))
    assert "loading PyTorch" in text.getvalue()


def test_the_registry_says_that_it_waits_for_its_store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = io.StringIO()
    work = _lasting_until_something_is_said(text.getvalue, RegistryError("gone"))
    monkeypatch.setattr("ml.registry.main.Registry.open", work)
    results, errors = Console(file=io.StringIO()), Console(file=text, width=140)
    assert registry.main(["list"], results, errors) == RegistryError.exit_code
    assert results.file.getvalue() == ""  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("module", "step", "error"),
    [
        (evaluate, "evaluate_run", TrainedError("gone")),
        (export, "export", TrainedError("gone")),
    ],
)
def test_a_stage_of_the_pipeline_says_that_it_is_at_work(
    module: Any, step: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = io.StringIO()
    monkeypatch.setattr(sys, "stdout", text)
    monkeypatch.setattr(sys, "stderr", text)
    monkeypatch.setattr(module, "enter_stage", lambda: None)
    monkeypatch.setattr(module, step, _lasting_until_something_is_said(text.getvalue, error))
    for name in ("open_trained", "read_evaluated"):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, lambda *_: SimpleNamespace(run=None))
    monkeypatch.setattr(evaluate, "read_evaluated", lambda _: None)
    arguments = (["run"], Console(file=text)) if module is evaluate else ()
    assert module.main(*arguments) == 2
    assert "gone" in text.getvalue()


def test_counting_a_dataset_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(sys, "stdout", text)
    monkeypatch.setattr(sys, "stderr", text)
    look = _lasting_until_something_is_said(text.getvalue, DatasetError("gone"))

    class Images:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, number: int) -> Any:
            return look()

    with pytest.raises(DatasetError):
        list(prepare._fingerprints(Images()))  # type: ignore[arg-type]


def test_dvc_says_that_it_moves_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    with runner._heartbeat("push"):
        end = time.monotonic() + 60
        said = ""
        while "dvc push" not in said:
            assert time.monotonic() < end
            said += capsys.readouterr().err
    with runner._heartbeat("repro"):  # whose stages speak for themselves
        time.sleep(0.1)
    assert capsys.readouterr().err == ""
