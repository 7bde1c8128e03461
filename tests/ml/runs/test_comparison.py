"""Runs side by side: which are found, what they say, which are kept, and what differs."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from ml.runs.comparison import (
    ComparisonError,
    Record,
    changed,
    find_runs,
    newest_first,
    ordered,
    read_record,
    where,
)
from ml.runs.comparison_page import render
from ml.runs.folder import RunFolder
from ml.runs.main import BAD_INPUT, main


def write_run(
    path: Path,
    *,
    accuracies: tuple[float, ...] = (0.25, 0.5, 0.375),
    finished: bool = True,
    started: str = "2026-01-02T03:04:05+00:00",
    test: float = 0.5,
    **config: Any,
) -> RunFolder:
    """A run folder as a training leaves it, in no time."""
    run = RunFolder(path)
    path.mkdir(parents=True)
    values = {
        "name": "small",
        "seed": 0,
        "monitor": "val/accuracy",
        "network": {"widths": [8, 8, 8]},
        "optimizer": {"lr": 0.5, "weight_decay": 1e-05},
        "trainer": {"max_epochs": 3},
    }
    OmegaConf.save(OmegaConf.merge(values, config), run.config)
    run.provenance.write_text(json.dumps({"started": started, "git_revision": "c0ffee"}))
    rows = [
        {"epoch": n, "val/accuracy": a, "val/loss": 1 - a, "elapsed_s": 10.0 * n}
        for n, a in enumerate(accuracies, 1)
    ]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if finished:
        scores = {"accuracy": test, "classes": ["a", "b"], "confusion": [[1, 1], [1, 1]]}
        run.summary.write_text(json.dumps({"epochs": 3, "test": scores, "val/accuracy": 0.5}))
    return run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    home = tmp_path / "runs"
    write_run(home / "1_plain", test=0.75)
    write_run(home / "2_wide", test=0.9375, network={"widths": [16, 64, 64]},
              started="2026-01-03T00:00:00+00:00")  # fmt: skip
    write_run(home / "3_killed", finished=False, seed=7, started="2026-01-04T00:00:00+00:00")
    return home


def records(home: Path) -> list[Record]:
    return [read_record(path) for path in find_runs([home])]


def names(found: list[Record]) -> list[str]:
    return [record.path.name for record in found]


def said(*arguments: str) -> tuple[int, str]:
    console = Console(width=160, record=True, file=io.StringIO())
    return main(arguments, console), console.export_text()


def test_a_run_says_its_state_its_best_epoch_and_its_scores(runs: Path) -> None:
    plain, _, killed = records(runs)
    assert (plain.state, plain.kind, plain.epochs) == ("finished", "run", "3/3")
    assert plain.metrics["test/accuracy"] == 0.75
    assert (plain.metrics["best_epoch"], plain.metrics["val/loss"]) == (2, 0.5)
    assert plain.value("optimizer.weight_decay") == 1e-5
    assert (killed.state, killed.value("test/accuracy")) == ("stopped", None)


def test_a_run_at_work_is_running_and_looking_at_it_leaves_no_file(runs: Path) -> None:
    killed = RunFolder(runs / "3_killed")
    before = {path.name for path in killed.path.iterdir()}
    assert read_record(killed.path).state == "stopped"
    assert {path.name for path in killed.path.iterdir()} == before
    with killed.lock():
        assert read_record(killed.path).state == "running"
    assert read_record(killed.path).state == "stopped"


def test_trials_of_a_sweep_are_found_and_say_what_became_of_them(tmp_path: Path) -> None:
    sweep = tmp_path / "multirun" / "smoke"
    for number in range(4):
        write_run(sweep / "trials" / f"{number:04}", finished=False)
    (sweep / "trials" / "0000" / "values.json").write_text("[0.5]")
    outcomes = {1: "pruned", 2: "failed", 3: "lost"}
    (sweep / "trials.json").write_text(
        json.dumps([{"trial": n, "state": state} for n, state in outcomes.items()])
    )
    found = records(tmp_path)
    assert [record.state for record in found] == ["finished", "pruned", "failed", "stopped"]
    assert {record.kind for record in found} == {"trial"}
    assert found[1].label == "smoke/trials/0001"


def test_a_damaged_run_is_shown_as_such_beside_the_others(runs: Path) -> None:
    (runs / "1_plain" / "summary.json").write_text("{")
    (runs / "2_wide" / "config.yaml").write_text("a: [")
    assert [record.state for record in records(runs)] == ["damaged", "damaged", "stopped"]
    code, text = said(str(runs))
    assert code == 0
    assert "JSONDecodeError" in text


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ("test/accuracy>0.9", ["2_wide"]),
        ("test/accuracy<=0.75", ["1_plain"]),
        ("test/accuracy = 0.75", ["1_plain"]),
        ("network.widths=[16,64,64]", ["2_wide"]),
        ("network.widths=[16, 64, 64]", ["2_wide"]),
        ("network.widths!=[16,64,64]", ["1_plain", "3_killed"]),
        ("optimizer.weight_decay=1e-5", ["1_plain", "2_wide", "3_killed"]),
        ("seed=7", ["3_killed"]),
        ("seed>0", ["3_killed"]),
        ("state=finished", ["1_plain", "2_wide"]),
        ("folder=*_wi?e", ["2_wide"]),
        ("git_revision=c0*", ["1_plain", "2_wide", "3_killed"]),
        ("test/accuracy!=0.75", ["2_wide"]),  # what has no test accuracy has no other one either
    ],
)
def test_conditions_keep_runs_by_metric_and_by_value(
    runs: Path, condition: str, kept: list[str]
) -> None:
    assert names(where(records(runs), condition)) == kept


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("test/acuracy>0.9", "test/accuracy"),  # the nearest name
        ("network.width=[1]", "network.widths"),
        ("accuracy", "NAME=VALUE"),
        (">0.9", "NAME=VALUE"),
        ("seed>many", "'many'"),
        ("network.widths>[1]", "'[1]'"),
    ],
)
def test_what_is_no_condition_is_refused(
    runs: Path, condition: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ComparisonError, match=r"."):
        where(records(runs), condition)
    assert said(str(runs), "--where", condition)[0] == BAD_INPUT
    assert told in capsys.readouterr().err


def test_runs_are_sorted_by_the_direction_of_a_metric(runs: Path) -> None:
    found = records(runs)
    assert names(ordered(found, "test/accuracy")) == ["2_wide", "1_plain", "3_killed"]
    assert names(ordered(found, "seed")) == ["1_plain", "2_wide", "3_killed"]
    assert names(newest_first(found)) == ["3_killed", "2_wide", "1_plain"]
    with pytest.raises(ComparisonError, match="val/loss"):
        ordered(found, "val/los")


def test_only_what_is_not_the_same_everywhere_was_changed(runs: Path) -> None:
    assert changed(records(runs)) == {
        "network.widths": [[8, 8, 8], [16, 64, 64], [8, 8, 8]],
        "seed": [0, 0, 7],
    }
    assert changed(records(runs)[:1]) == {}


def test_code_of_a_users_own_that_was_changed_is_named(runs: Path) -> None:
    for name, digest in (("1_plain", "a" * 64), ("2_wide", "b" * 64)):
        provenance = {"own_code": {"nets": digest}, "git_revision": "c0ffee"}
        (runs / name / "provenance.json").write_text(json.dumps(provenance))
    found = changed(records(runs)[:2])
    assert found["own_code.nets"] == ["a" * 64, "b" * 64]


def test_the_table_names_the_runs_and_what_was_changed(runs: Path) -> None:
    code, text = said(str(runs), "--compare", "--show", "seed", "--sort", "test/accuracy")
    assert code == 0
    lines = text.splitlines()
    assert lines[1].split()[:3] == ["2_wide", "finished", "3/3"]
    assert "0.9375" in lines[1]
    assert any(line.split() == ["seed", "0", "0", "7"] for line in lines)


def test_the_default_places_are_those_of_the_workspace(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(
        runs.parent / "multirun" / "smoke" / "trials" / "0000",
        finished=False,
        started="2026-01-01T00:00:00+00:00",
    )
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(runs.parent))
    assert said("--json", "--limit", "3", "--reverse")[0] == 0
    told = json.loads(capsys.readouterr().out)
    assert [Path(run["run"]).name for run in told] == ["0000", "1_plain", "2_wide"]
    assert told[1]["metrics"]["test/accuracy"] == 0.75
    assert told[1]["config"]["network.widths"] == [8, 8, 8]


def test_not_a_number_becomes_null_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "a", accuracies=(float("nan"),), finished=False)
    assert said(str(tmp_path), "--json")[0] == 0
    assert json.loads(capsys.readouterr().out)[0]["metrics"]["val/accuracy"] is None


@pytest.mark.parametrize("arguments", [("missing",), (".",), (".", "--sort", "nothing")])
def test_bad_input_ends_with_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    if "--sort" in arguments:
        write_run(tmp_path / "a")
    assert said(*arguments)[0] == BAD_INPUT


def test_the_page_stands_alone_and_shows_curves_and_changes(runs: Path, tmp_path: Path) -> None:
    assert said(str(runs), "--html", str(tmp_path))[0] == BAD_INPUT  # a folder is there
    page = tmp_path / "page.html"
    assert said(str(runs), "--html", str(page))[0] == 0
    text = page.read_text()
    assert "prefers-color-scheme: dark" in text
    assert all(text.count(f"var(--c{n})") >= 3 for n in range(3))  # a table and two panels
    assert "[16,64,64]" in text
    assert not {"http://", "https://", "<link", "src="} & set(text.split('"'))
    assert render(records(runs)) == render(records(runs))


def test_names_of_folders_cannot_break_the_page(tmp_path: Path) -> None:
    write_run(tmp_path / "<b>&", name="<script>alert(1)</script>")
    write_run(tmp_path / "plain")
    text = render(records(tmp_path))
    assert "<script>alert" not in text
    assert "<b>" not in text
