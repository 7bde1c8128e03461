"""The steps of a retraining, from labelled captures to the next champion, each with an explanation;
and the record of them."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from common.files import write_whole

Decision = Literal["promoted", "would be promoted", "keep", "more labels", "check labels"]
EXIT_CODES: dict[Decision, int] = {
    "promoted": 0,
    "would be promoted": 0,
    "keep": 3,
    "more labels": 4,
    "check labels": 5,
}
RECORD = "record.json"
_FORMAT = 1


@dataclass(frozen=True)
class Step:
    """The result of a step.

    Attributes:
        name: such as ``train``.
        says: for people.
        facts: for programs.
    """

    name: str
    says: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Record:
    """One retraining, saved in a folder after every step, so that a killed one can be resumed.

    Attributes:
        settings: of the command; other settings are another retraining.
        until: the cut-off of captures and labels, ISO 8601.
        run: the training's run folder, once it has one.
        decision: None until it is made.
        says: the reason for it.
    """

    folder: Path
    settings: dict[str, Any]
    until: str
    run: str | None = None
    steps: list[Step] = field(default_factory=list)
    decision: Decision | None = None
    says: str = ""

    @property
    def path(self) -> Path:
        """The record's file."""
        return self.folder / RECORD

    def save(self) -> None:
        """Writes the record atomically."""
        values = asdict(self) | {"format": _FORMAT, "folder": str(self.folder)}
        write_whole(self.path, json.dumps(values, indent=2, default=str) + "\n")

    def note(self, name: str, says: str, console: Console, **facts: Any) -> None:
        """Adds a step, or replaces its result from an interrupted attempt."""
        self.steps = [step for step in self.steps if step.name != name]
        self.steps.append(Step(name, says, facts))
        self.save()
        console.print(f"{name}: {says}", markup=False, highlight=False, soft_wrap=True)

    def decide(self, decision: Decision, says: str) -> None:
        """Records the decision, which ends the retraining."""
        self.decision, self.says = decision, says
        self.save()


def open_record(
    root: Path, settings: dict[str, Any], *, again: bool, now: Callable[[], datetime] | None = None
) -> Record:
    """The newest record with these settings and without a decision, else a new one. One that had
    not begun to train begins anew, so that labels count that were given since then.

    Args:
        again: always start a new one.
    """
    moment = (now or (lambda: datetime.now(UTC)))()
    until = moment.isoformat(timespec="microseconds")
    for path in [] if again else sorted(root.glob(f"*/{RECORD}"), reverse=True):
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("format") != _FORMAT or values["decision"] is not None:
            continue
        if values["settings"] == json.loads(json.dumps(settings)):
            if values["run"] is None:
                return Record(path.parent, settings, until)
            steps = [Step(**step) for step in values.pop("steps")]
            return Record(**{**values, "folder": path.parent, "steps": steps})
    folder = root / f"{moment:%Y-%m-%d_%H-%M-%S}"
    for attempt in range(2, 1000):
        if not folder.exists():
            break
        folder = root / f"{moment:%Y-%m-%d_%H-%M-%S}-{attempt}"
    record = Record(folder, settings, until)
    record.save()
    return record


def print_record(record: Record, console: Console) -> None:
    """Prints all steps in a table, and the decision below."""
    table = Table(title="Retraining", title_justify="left", show_lines=True)
    table.add_column("step", no_wrap=True)
    table.add_column("what it says")
    for step in record.steps:
        table.add_row(step.name, step.says)
    console.print(table, markup=False, highlight=False)
    if record.decision:
        console.print(
            f"{record.decision.upper()}: {record.says}\n  record  {record.path}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
