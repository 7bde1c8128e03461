"""What `--keep` says to type, and what is refused before anything is started."""

from __future__ import annotations

import shlex
import subprocess
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import infra.twin.main
from infra.release.commands import deploy, destroy, plan, rollback, shadow, status
from infra.release.settings import STRATEGIES, read_settings
from infra.twin.deployment import Deployer
from infra.twin.main import UNUSABLE, command_lines, main
from infra.twin.story import Narrator
from tests.helpers.waiting import wait_until

CONFIG = Path(infra.twin.main.__file__).parent / "release.toml"
COMMANDS = (deploy, destroy, plan, rollback, shadow, status)
IMAGES = {"first release": f"kiln@sha256:{'1' * 64}", "slow": f"kiln@sha256:{'2' * 64}"}
PATHS = ("image", "trained", "bundled", "bundled-int8", "golden", "deploy", "load", "config")


@pytest.fixture
def lines(tmp_path: Path) -> list[str]:
    folder = tmp_path / "with a blank"
    deployer = Deployer(
        Path("deploy"),
        CONFIG,
        folder / "golden.zip",
        {},
        folder,
        "dev",
        print,
        ("monthly_budget_usd=0",),
    )
    there = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    return list(command_lines(deployer, IMAGES, there, ["AWS_PROFILE"], "http://127.0.0.1:2"))


def test_a_shell_that_runs_its_lines_finds_the_cloud_and_the_state(
    lines: list[str], tmp_path: Path
) -> None:
    script = "\n".join([*lines[: lines.index("")], "env"])
    shell = ["env", "-i", "AWS_PROFILE=mine", "sh", "-euc", script]
    found = subprocess.run(shell, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {
        "AWS_ENDPOINT_URL=http://127.0.0.1:1",
        "KILN_ENV=dev",
        f"KILN_TERRAFORM_STATE={tmp_path / 'with a blank' / 'state'}",
    } < set(found)
    assert not any(line.startswith("AWS_PROFILE") for line in found)


def test_its_lines_are_what_the_commands_understand(lines: list[str]) -> None:
    parsers = {command.__name__.rpartition(".")[2]: command._options() for command in COMMANDS}
    run = [shlex.split(line, comments=True) for line in lines if line.startswith("./tools/bazel")]
    names = [words[2].removeprefix("//infra:") for words in run]
    assert set(names) == set(parsers)
    for name, words in zip(names, run, strict=True):
        parsers[name].parse_args(words[4:])
    images = [words[words.index("--image") + 1] for words in run if words[2] == "//infra:deploy"]
    assert images == list(IMAGES.values())


def test_every_strategy_takes_less_than_a_minute_there() -> None:
    settings = read_settings("dev", CONFIG)
    for strategy in STRATEGIES:
        assert sum(step.bake_s for step in settings.steps(strategy)) <= 60, strategy


def test_a_folder_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "twin"
    assert main([*(f"--{name}=none" for name in PATHS), "--out", str(out)]) == UNUSABLE
    expected = f"{out} cannot be written (Not a directory): --out names another folder"
    assert expected in capsys.readouterr().err


def test_a_log_hears_every_so_often_what_was_begun_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.terminal.EVERY_S", 0.01)
    file = StringIO()
    narrator = Narrator(Console(file=file, width=100))
    narrator.say("before")
    with narrator.working():
        narrator.say("Terraform [makes] it", "bold")
        wait_until(lambda: "s  Terraform [makes] it\n" in file.getvalue().partition("still")[2])
    told = file.getvalue()
    narrator.say("after")
    assert file.getvalue().removeprefix(told).count("\n") == 1


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf"])
def test_callers_at_no_rate_are_refused(rate: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*(f"--{name}=none" for name in PATHS), "--rate", rate])
