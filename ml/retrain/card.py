"""A Markdown page about a retraining: the decision, the steps, the new model's card."""

from __future__ import annotations

from pathlib import Path

from ml.report.finished import card_facts, open_finished
from ml.report.model_card import to_markdown
from ml.retrain.steps import Record


def to_page(record: Record) -> str:
    """The page by which a person decides whether to promote the model; without a model, the steps
    alone.

    Raises:
        TrainedError, ArtifactError, DatasetMismatch, FinishedError: the run cannot be read.
    """
    parts = [
        f"# Retraining: {record.decision or 'not finished'}",
        record.says,
        f"Captures and labels until {record.until}.",
        "| step | what it says |\n|---|---|\n"
        + "\n".join(f"| {step.name} | {_cell(step.says)} |" for step in record.steps),
    ]
    version = next((s.facts["version"] for s in record.steps if s.name == "register"), None)
    if version:
        command = f"./tools/bazel run //ml:registry -- promote {version[:16]}"
        parts.append(f"To put it in the champion's place:\n\n```sh\n{command}\n```")
    if record.run and version:
        run = Path(record.run)
        facts = card_facts(
            open_finished(run), f"./tools/bazel run //ml:train -- --rerun {run.name}"
        )
        parts.append(to_markdown(facts).partition("\n---\n")[2].strip())
    return "\n\n".join(filter(None, parts)) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
