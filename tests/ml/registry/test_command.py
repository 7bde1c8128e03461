"""ml/registry/main.py as a user types it."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from rich.console import Console

from common.model.artifact import read_artifact
from ml.registry import gates, main
from ml.registry.registry import Registry
from ml.runs.folder import config_digest
from tests.ml.registry.runnable import Maker, examples

IMAGE = "sha256:" + "12ab" * 16


class Terminal:
    """Types commands; keeps what they print."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.maker = folder, Maker(folder)
        self.output = self.errors = ""
        self.test_data = folder / "test.npz"
        np.savez(self.test_data, images=examples().images, labels=examples().labels)

    def types(self, *arguments: str) -> int:
        """The exit code of a command."""
        streams = io.StringIO(), io.StringIO()
        consoles = (Console(file=stream, width=140) for stream in streams)
        try:
            return main.main(arguments, *consoles)
        finally:
            self.output, self.errors = (stream.getvalue() for stream in streams)

    def asks(self, *arguments: str, exit_code: int = 0) -> Any:
        """The JSON that a command answers."""
        assert self.types(*arguments, "--json") == exit_code
        return json.loads(self.output)

    def registers(self, threshold: float, **changes: Any) -> str:
        """The version of a new model; the further from 128, the worse."""
        path = self.folder / f"{threshold}.onnx"
        path.write_bytes(self.maker.artifact(threshold, **changes))
        return str(self.asks("register", str(path))["version"])

    def promotes(self, version: str, *more: str) -> int:
        """With the slowest machine in mind."""
        data = ("--test-data", str(self.test_data), "--p99-ms", "1000")
        return self.types("promote", version, *data, *more)


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("KILN_ACTOR", "ada")
    monkeypatch.delenv("KILN_REGISTRY", raising=False)
    monkeypatch.setattr(gates, "_ROUND_S", 0.01)
    return Terminal(tmp_path)


def test_a_models_life(terminal: Terminal) -> None:
    assert terminal.types("list") == 0
    assert "No versions in" in terminal.output
    old, new, bad = (terminal.registers(threshold) for threshold in (130, 128.5, 150))

    assert terminal.promotes(old[:8], "--reason", "the first") == 0
    assert terminal.promotes(new[:8], "--reason", "sharper") == 0
    assert "champion: " in terminal.output
    assert "McNemar, exact" in terminal.output
    assert terminal.promotes(bad[:8]) == 1
    assert "FAIL" in terminal.output
    assert f"(record 3): champion stays at {new[:12]}" in terminal.output

    assert terminal.types("rollback", "--from", new[:8], "--reason", "it burns") == 0
    assert terminal.types("rollback", "--from", new[:8]) == 0
    assert "already" in terminal.output
    assert terminal.types("list") == 0
    row = next(line for line in terminal.output.splitlines() if "champion" in line)
    assert old[:12] in row
    assert terminal.types("history") == 0
    for text in ("rollback", "it burns", "refused", "sharper", "ada"):
        assert text in terminal.output
    assert terminal.types("verify") == 0
    assert ": 3 versions, 0 of them signed, 4 records" in terminal.output


def test_promoting_by_force_is_recorded_as_such(terminal: Terminal) -> None:
    good, bad = terminal.registers(128.5), terminal.registers(150)
    terminal.promotes(good)
    assert terminal.promotes(bad, "--force") == 2
    assert "--reason" in terminal.errors
    assert terminal.promotes(bad, "--force", "--reason", "the good one leaks") == 0
    record = terminal.asks("history")["records"][-1]
    assert (record["verdict"], record["why"]) == ("forced", "the good one leaks")
    failed = [gate["name"] for gate in record["evidence"]["gates"] if not gate["passed"]]
    assert failed == ["calibration", "against the champion"]
    assert record["evidence"]["limits"]["margin"] == 0.01


def test_a_dry_run_changes_nothing(terminal: Terminal) -> None:
    version = terminal.registers(128.5)
    assert terminal.promotes(version, "--dry-run") == 0
    assert "would be promoted; nothing was changed" in terminal.output
    assert terminal.promotes(version, "--dry-run", "--max-bytes", "10") == 1
    assert terminal.asks("history")["records"] == []


def test_an_alias_of_any_name_comes_and_goes(terminal: Terminal) -> None:
    version = terminal.registers(128.5)
    assert terminal.promotes(version, "--alias", "challenger") == 0
    assert terminal.promotes(version, "--alias", "challenger") == 0
    assert "already: nothing to do" in terminal.output
    assert terminal.types("unalias", "challenger") == 0
    assert terminal.types("unalias", "challenger") == 2
    assert terminal.asks("list")["aliases"] == {}


def run_folder(terminal: Terminal, **changes: Any) -> Path:
    """As a training leaves it, with an INT8 sibling."""
    folder = terminal.folder / "runs" / "one"
    folder.mkdir(parents=True)
    cfg = OmegaConf.create({"seed": 3, "optimizer": {"lr": 0.1}})
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    digest = {"config_digest": config_digest(cfg)} | changes
    model = terminal.maker.artifact(129, **digest)
    (folder / "model.onnx").write_bytes(model)
    small = terminal.maker.artifact(129.5, **digest, quantisation="int8")
    (folder / "model.int8.onnx").write_bytes(small)
    summary = {"model_version": read_artifact(model).version, "training_s": 12.5}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "network.pt").write_bytes(b"weights")
    return folder


def test_a_run_folder_brings_its_configuration(terminal: Terminal) -> None:
    folder = run_folder(terminal)
    fp32 = terminal.asks("register", str(folder), "--reason", "try")["manifest"]
    assert fp32["lineage"]["config"] == {"seed": 3, "optimizer": {"lr": 0.1}}
    assert fp32["lineage"]["summary"]["training_s"] == 12.5
    assert fp32["registered"]["who"] == "ada"
    int8 = terminal.asks("register", str(folder / "model.int8.onnx"))["manifest"]
    assert int8["lineage"]["parents"] == [{"version": fp32["version"], "relation": "int8 of"}]
    assert int8["lineage"]["config"] == fp32["lineage"]["config"]
    assert int8["lineage"]["summary"] is None
    assert terminal.types("explain", int8["version"]) == 0
    assert f"int8 of: {fp32['version']}" in terminal.output
    registry = Registry.open(str(terminal.folder / ".kiln" / "registry"))
    assert registry.weights.of(fp32["version"]) == b"weights"
    assert registry.weights.of(int8["version"]) is None


def test_a_configuration_that_is_not_the_models_is_refused(terminal: Terminal) -> None:
    folder = run_folder(terminal, config_digest="e" * 64)
    assert terminal.types("register", str(folder)) == 2
    assert "not what model.onnx was trained with" in terminal.errors
    assert terminal.types("register", str(folder / "model.onnx")) == 0


def test_a_parent_can_be_named(terminal: Terminal) -> None:
    parent = terminal.registers(128.5)
    path = terminal.folder / "child.onnx"
    path.write_bytes(terminal.maker.artifact(129))
    child = terminal.asks("register", str(path), "--parent", parent[:6], "--relation", "tuned from")
    assert child["manifest"]["lineage"]["parents"] == [
        {"version": parent, "relation": "tuned from"}
    ]


def test_an_image_and_a_request_are_explained(terminal: Terminal) -> None:
    version = terminal.registers(128.5)
    terminal.promotes(version, "--reason", "the first")
    assert terminal.types("link", "--image", IMAGE, "--version", "champion") == 0
    assert terminal.types("explain", IMAGE[:14], "--all") == 0
    for text in (f"{IMAGE[:14]} → {version}", "a" * 40, "b" * 64, "the first", "pass artifact"):
        assert text in terminal.output
    line = json.dumps({"message": "served", "request_id": "r-1", "model_version": version[:12]})
    log = terminal.folder / "service.jsonl"
    log.write_text(f"starting\n{line}\n")
    assert terminal.asks("explain", "r-1", "--log", "service.jsonl")["version"] == version
    assert terminal.asks("explain", line)["asked"] == [
        line if len(line) <= 80 else f"{line[:77]}...",
        version[:12],
        version,
    ]
    assert terminal.types("explain", "r-2", "--log", str(log)) == 2
    assert "r-2" in terminal.errors


def test_a_model_comes_out_as_it_went_in(terminal: Terminal) -> None:
    version = terminal.registers(128.5)
    assert terminal.types("pull", version[:6], "-o", "out/model.onnx") == 0
    pulled = terminal.folder / "out" / "model.onnx"
    assert pulled.read_bytes() == (terminal.folder / "128.5.onnx").read_bytes()
    pulled.write_text("mine")
    assert terminal.types("pull", version, "-o", str(pulled)) == 2
    assert pulled.read_text() == "mine"
    assert terminal.types("pull", version, "-o", str(pulled), "--overwrite") == 0
    assert terminal.types("pull", version, "-o", str(pulled)) == 0


def test_damage_is_found_and_named(terminal: Terminal) -> None:
    manifest = terminal.asks("register", str(write(terminal, 128.5)))["manifest"]
    file = terminal.folder / ".kiln" / "registry" / manifest["file"]["key"]
    file.write_bytes(b"something else")
    assert terminal.types("verify") == 1
    assert "has SHA-256" in terminal.output
    assert terminal.promotes(manifest["version"]) == 1
    assert "restore it" in terminal.errors


def write(terminal: Terminal, threshold: float) -> Path:
    path = terminal.folder / "model-of-mine.onnx"
    path.write_bytes(terminal.maker.artifact(threshold))
    return path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["register", "nowhere"], "does not exist"),
        (["register", "."], "holds no model.onnx"),
        (["register", "text.onnx"], "is refused: not an ONNX model"),
        (["promote", "abcd"], "is no alias, version or image"),
        (["promote", "champion"], "see `list`"),
        (["promote", "abcd", "--alias", "Beef"], "is no name for an alias"),
        (["rollback"], "has no previous version"),
        (["explain", "sha256:12"], "fits 0 images"),
        (["explain", "{broken"], "not a JSON log line"),
        (["explain", '{"request_id": "1"}'], "names no model version"),
        (["explain", "r-1", "--log", "missing.log"], "cannot be read"),
        (["link", "--image", "latest", "--version", "abcd"], "is no alias"),
        (["list", "--registry", "gs://bucket"], "expected s3://bucket/prefix"),
        (["list", "--registry", "text.onnx"], "Not a directory"),
    ],
)
def test_bad_input_is_explained_and_leaves_with_2(
    terminal: Terminal, arguments: list[str], said: str
) -> None:
    (terminal.folder / "text.onnx").write_text("hello")
    assert terminal.types(*arguments) == 2
    assert said in terminal.errors
    assert terminal.output == ""
    answer = terminal.asks(*arguments, exit_code=2)
    assert said in answer["error"]


@pytest.mark.parametrize(
    "arguments", [["promote"], ["frobnicate"], [], ["promote", "x", "--margin", "y"]]
)
def test_a_wrong_command_line_leaves_with_2(
    terminal: Terminal, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        terminal.types(*arguments)
    assert exit_.value.code == 2
    assert "//ml:registry" in capsys.readouterr().err


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["promote", "--help"], ["explain", "--help"]):
        with pytest.raises(SystemExit) as exit_:
            main.main(arguments, Console(), Console())
        assert exit_.value.code == 0
    helped = capsys.readouterr().out
    assert "Exit codes: 0 done, 1 refused" in helped
    assert "bazel run //ml:registry -- promote 3fa8" in helped


def test_a_conflict_says_who_was_faster(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = terminal.registers(128.5), terminal.registers(128.6)
    place = str(terminal.folder / ".kiln" / "registry")
    judge = gates.judge

    def slow_judge(*arguments: Any, **options: Any) -> Any:
        Registry.open(place, who="grace").promote(theirs)
        return judge(*arguments, **options)

    monkeypatch.setattr("ml.registry.gates.judge", slow_judge)
    assert terminal.promotes(mine) == 1
    assert f"grace moved champion to {theirs}" in terminal.errors
    assert "repeat the command" in terminal.errors


def test_the_program_itself_tells_its_exit_codes(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "KILN_REGISTRY": str(tmp_path / "registry"),
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ml.registry.main", *arguments],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
        )

    listed = run("list")
    assert (listed.returncode, listed.stdout.startswith("No versions in")) == (0, True)
    assert run("explain", "nobody").returncode == 2
