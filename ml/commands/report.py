"""Redraws the report of a finished run and writes its model card.

  bazel run //ml:report -- runs/<folder>

Writes plots/, mistakes/, report.html, model_card.html and MODEL_CARD.md into the run folder, from
model.onnx: the test set is evaluated again, and the accuracy must match the model's metadata.

Exit codes: 0 written, 1 the model does not reproduce its metrics, 2 bad input.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from common.command_line import command_parser
from common.files import user_path, write_whole
from common.terminal import Progress, terminal
from ml.report.finished import UNUSABLE, Finished, FinishedError, card_facts, open_finished
from ml.report.model_card import to_html, to_markdown
from ml.report.page import draw_run
from ml.stages import augmented_samples

REFUSED, BAD_INPUT = 1, 2  # exit codes


def write_all(finished: Finished, license: str | None = None) -> list[str]:
    """Plots, report and both forms of the card; returns their paths.

    Args:
        license: of the model, as named by the Hugging Face Hub.
    """
    run = finished.trained.run
    draw_run(
        run,
        finished.artifact.metadata,
        finished.evaluation,
        test=finished.test,
        probabilities=finished.probabilities,
        parameters=finished.trained.parameters,
        augmented=augmented_samples(finished.trained.data),
        answer=lambda images: finished.artifact.predict(images).probabilities,
    )
    command = f"./tools/bazel run //ml:train -- --rerun runs/{run.path.name}"
    card = card_facts(finished, command, license=license)
    page, text = run.path / "model_card.html", run.path / "MODEL_CARD.md"
    write_whole(page, to_html(card))
    write_whole(text, to_markdown(card))
    return [str(path) for path in (run.plots, run.mistakes, run.report, page, text)]


def main(arguments: Sequence[str], console: Console) -> int:
    """Entry point of the command."""
    options = _options().parse_args(arguments)
    try:
        console.print("[dim]answering the test set ...[/]")
        with Progress("answering the test set", console=console) as progress:
            finished = open_finished(user_path(options.run))
            progress.begin("drawing")
            paths = write_all(finished, options.license)
        for path in paths:
            console.print(f"  {path}", highlight=False, soft_wrap=True)
    except FinishedError as exc:
        console.print(f"[red]Refused:[/] {escape(str(exc))}", highlight=False, soft_wrap=True)
        return REFUSED
    except UNUSABLE as exc:
        console.print(
            f"[red]{escape(str(exc))}[/]\nNothing was written.", highlight=False, soft_wrap=True
        )
        return BAD_INPUT
    return 0


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//ml:report", __doc__)
    parser.add_argument("run", help="run folder of a finished training")
    parser.add_argument(
        "--license",
        help="the model's licence for the card's metadata, as named by the Hub: apache-2.0, mit, …",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal()))
