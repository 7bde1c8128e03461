"""infra/twin/loop: the second story's canary, its bad ending, its promises and its figure."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.captures import Capture, Captures, Label
from common.stores import open_store
from infra.release.verdict.engine import Verdict
from infra.release.verdict.evidence import Labelled
from infra.twin.loop import canary as canary_module
from infra.twin.loop.canary import Callers, Canary, LabelledResponse, Shot
from infra.twin.loop.main import draw, find
from infra.twin.loop.programs import Alarm, Running
from infra.twin.loop.story import Estimate, Observed, Retraining, flip_labels
from infra.twin.main import loop_command

OLD, NEW = "a" * 64, "b" * 64
CLASSES = ("cat", "dog")
GOLDEN = [Shot(str(number), CLASSES[number % 2]) for number in range(4000)]


class FakeService(Running):
    """Answers golden images right but for every `wrong`-th."""

    wrong = 0

    def ask(self, method: str, path: str, document: Any = None, *_: Any, **__: Any) -> Any:
        results = []
        for text in document["images"]:
            number = int(text)
            is_wrong = self.wrong and number % self.wrong == 0
            label = CLASSES[(number + bool(is_wrong)) % 2]
            results.append({"prediction": {"label": label}})
        return 200, {"results": results}


class FakeCallers(Callers):
    """Each routing brings the answers that a look sees; `right` is by model."""

    right: dict[str, float]
    store: Captures

    def route(self, *shares: tuple[Running, float]) -> None:
        now, batch = time.time(), len(self.answers)
        rows, labels = list[Capture](), list[Label]()
        for running, _ in shares if len(shares) > 1 else ():
            for number in range(800):
                request_id = f"{batch + len(rows):032x}"
                good = number % 100 < 100 * self.right[running.model]
                shown = 0 if number % 2 else 1
                probabilities = (0.9, 0.1) if shown == 0 else (0.1, 0.9)
                truth = CLASSES[shown if good else 1 - shown]
                self.answers.append(
                    LabelledResponse(
                        now, running.model, 200, 0.003, CLASSES[shown], 0.9, good, request_id
                    )
                )
                rows.append(Capture(request_id, 0, now, running.model, probabilities, 1.0, b""))
                labels.append(Label(request_id, 0, truth, "feedback-1", now))
        if rows:
            self.store.write("one", batch, rows, now)
            self.store.say_together(labels)


@pytest.fixture
def services() -> tuple[FakeService, FakeService]:
    return (
        FakeService("old", "", "", OLD, classes=CLASSES, lines=[]),
        FakeService("new", "", "", NEW, classes=CLASSES, lines=[]),
    )


def released(
    services: tuple[FakeService, FakeService],
    right: dict[str, float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Verdict, Canary]:
    for name, value in (("_LOOK_S", 0.02), ("_STEP_S", 0.01), ("_MOST_S", 20.0)):
        monkeypatch.setattr(canary_module, name, value)
    callers = FakeCallers(1.0, 0)
    callers.right, callers.store = right, Captures(open_store(str(tmp_path)))
    canary = Canary(*services, GOLDEN, tmp_path, lambda text: None)
    return canary.run(callers), canary


def test_a_model_that_live_labels_find_better_is_promoted(
    services: tuple[FakeService, FakeService], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict, canary = released(services, {OLD: 0.5, NEW: 0.8}, tmp_path, monkeypatch)
    assert verdict.decision == "promote", verdict.reasons
    old, new = canary.labelled
    assert old.right == old.wrong > 0
    assert new.right == 4 * new.wrong


def test_a_model_that_live_labels_find_worse_is_rolled_back(
    services: tuple[FakeService, FakeService], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict, _ = released(services, {OLD: 0.8, NEW: 0.5}, tmp_path, monkeypatch)
    assert verdict.decision == "roll back"
    assert [one.name for one in verdict.checks if one.state == "harmful"] == ["labels"]


def test_a_model_that_has_forgotten_golden_images_is_rolled_back(
    services: tuple[FakeService, FakeService], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services[1].wrong = 10
    verdict, _ = released(services, {OLD: 0.5, NEW: 0.8}, tmp_path, monkeypatch)
    assert verdict.decision == "roll back"
    assert "accuracy" in [one.name for one in verdict.checks if one.state == "harmful"]


def test_a_fifth_of_the_labels_is_flipped_and_nothing_else_changes(tmp_path: Path) -> None:
    source, target = (Captures(open_store(str(tmp_path / name))) for name in ("one", "two"))
    rows = [Capture(f"{n:032x}", 0, 1.8e9 + n, OLD, (0.9, 0.1), 1.0, b"x") for n in range(2000)]
    source.write("one", 0, rows, 1.8e9)
    source.say_together([Label(row.request_id, 0, "cat", "ada", row.time) for row in rows])
    source.say(Label(rows[0].request_id, 0, "dog", "eve", 1.8e9 + 1500))
    flipped = flip_labels(source, target, "seed", before=1.8e9 + 1000)
    assert len(list(target.rows())) == len(target.labels()) == 1000
    said = [label.label for label in target.labels()]
    assert flipped == said.count("dog") == pytest.approx(200, abs=40)
    assert flip_labels(source, target, "seed", before=1.8e9 + 1000) == flipped


def observed() -> Observed:
    """A story in which every promise was kept."""
    start = 1.8e9
    answers = [
        LabelledResponse(
            start + n / 10, OLD if n < 900 else NEW, 200, 0.01, "cat", 0.9, n % 3 > 0, str(n)
        )
        for n in range(1200)
    ]
    return Observed(
        phases=[
            (start - 60, "the first model"),
            (start, "good traffic"),
            (start + 30, "the camera changes: contrast:3"),
            (start + 80, "canary with live labels"),
        ],
        estimates=[
            Estimate(start + 29, OLD, 0.8, 0.78, 0.82),
            Estimate(start + 60, OLD, 0.6, 0.58, 0.62),
            Estimate(start + 110, NEW, 0.75, 0.72, 0.78),
        ],
        alarms=[Alarm(start + 35, OLD, True), Alarm(start + 100, OLD, False)],
        answers=answers,
        retrained=Retraining(0, "promoted", "it is better", None),
        endings=[Retraining(5, "check labels", "they look wrong", None)],
        verdict=Verdict("promote", ("errors: none",), ()),
        labelled=(Labelled(5, 5), Labelled(8, 2)),
        models=(OLD, NEW),
        tested=(0.8, 0.799),
        shifted=(0.55, 0.7),
        took_s=400.0,
    )


def test_a_story_that_went_well_keeps_its_promises_and_is_drawn() -> None:
    story = observed()
    assert all(finding.kept for finding in find(story)), find(story)
    assert draw(story).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "change",
    [
        {"alarms": []},
        {"alarms": [Alarm(1.8e9 + 10, OLD, True), Alarm(1.8e9 + 40, OLD, True)]},
        {"estimates": []},
        {"retrained": None},
        {"verdict": None},
        {"labelled": (Labelled(5, 5), Labelled())},
        {"tested": (0.8, 0.796)},
        {"shifted": (0.55, 0.59)},
        {"took_s": 601.0},
        {"endings": [Retraining(0, "promoted", "", None)]},
        {"answers": [LabelledResponse(1.8e9, OLD, 500, 0.1, "", 0.0, False, "")]},
    ],
)
def test_each_promise_can_be_broken(change: dict[str, Any]) -> None:
    assert not all(finding.kept for finding in find(replace(observed(), **change)))


def test_the_build_names_the_programs_of_the_second_story(tmp_path: Path) -> None:
    built = ["--image", "image", "--loop", "bin/loop", "--program=train=bin/train"]
    assert loop_command([*built, "--quick"]) is None
    command = loop_command([*built, "--story", "loop", "--endings", "2"])
    assert command is not None
    assert command[1:] == ["--train", str(Path("bin/train").absolute()), "--endings", "2"]
    assert Path(command[0]).name == "loop"
