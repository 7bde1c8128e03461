"""Labels captured images by keyboard on a local page: bazel run //ml:label

Images on which the model was unsure, or that look unlike its test images, are sampled more often.
Every label is stored at once, so the same command resumes.

  bazel run //ml:label                    # prints the page's address; Ctrl-C stops
  bazel run //ml:label -- --labeller ada  # a second labeller gets the same images, for comparison
  bazel run //ml:label -- --captures s3://bucket/captures

Exit codes: 0 stopped by Ctrl-C, 1 nothing to label, 2 bad input.
"""

import argparse
import re
import socket
import sys
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from functools import cache

import uvicorn
from rich.console import Console

from common.captures import Captures, usual_location
from common.command_line import command_parser
from common.model.artifact import ArtifactError, DriftReference
from common.objects import StoreError
from common.programs import this_user
from common.stores import open_store
from common.terminal import Progress, terminal
from ml.labels.app import labelling_app, new_token
from ml.labels.classes import class_names, metadata_of
from ml.labels.main import add_captures, labeller_name
from ml.labels.rounds import SIZE
from ml.labels.session import Session
from ml.labels.tables import LabelsError

NOTHING, BAD_INPUT = 1, 2


def open_session(options: argparse.Namespace) -> Session | None:
    """The labeller's round; None if nothing is left to label.

    Raises:
        LabelsError, ArtifactError, StoreError: the input cannot be used.
    """
    captures = Captures(open_store(options.captures or usual_location()))

    @cache
    def reference_of(version: str) -> DriftReference | None:
        metadata = metadata_of(version, options.registry)
        return metadata.drift_reference if metadata else None

    with Progress("reading captures"):
        versions = {row.model_version for row in captures.answers()}
        if not versions:
            return None
        session = Session(
            captures,
            options.labeller,
            class_names(versions, options.model, options.registry),
            reference_of,
            size=options.size,
            shows_answers=options.show_answers,
        )
    return session if session.round else None


def main(arguments: Sequence[str], console: Console) -> int:
    options = _parser().parse_args(arguments)
    try:
        session = open_session(options)
    except (LabelsError, ArtifactError, StoreError) as exc:
        console.print(str(exc), style="red", markup=False, highlight=False, soft_wrap=True)
        return BAD_INPUT
    where = options.captures or usual_location()
    if session is None:
        console.print(f"Nothing is captured in {where}", markup=False, soft_wrap=True)
        return NOTHING
    with socket.create_server(("127.0.0.1", options.port)) as listener:
        port, token = listener.getsockname()[1], new_token()
        url = f"http://127.0.0.1:{port}/{token}/"
        console.print(
            f"{session.labeller} labels {where}\n{url}\nLabels are stored at once. Ctrl-C stops.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        if options.open:
            webbrowser.open(url)
        config = uvicorn.Config(
            labelling_app(session, token, port), log_level="warning", access_log=False
        )
        with suppress(KeyboardInterrupt):  # uvicorn re-raises the signal after shutting down
            uvicorn.Server(config).run(sockets=[listener])
    state = session.state()
    console.print(f"{state['done']} of {state['total']} labelled in round {state['round']}")
    return 0


def _usual_labeller() -> str:
    name = re.sub(r"[^a-z0-9._-]+", "-", this_user().partition("@")[0].lower())
    return name.lstrip("._-")[:40] or "me"


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("//ml:label", __doc__)
    add = parser.add_argument
    add_captures(parser)
    add(
        "--labeller",
        type=labeller_name,
        default=_usual_labeller(),
        metavar="NAME",
        help="name of the labeller (default: %(default)s)",
    )
    add(
        "--size",
        type=int,
        default=SIZE,
        metavar="N",
        help="images per round (default: %(default)s)",
    )
    add(
        "--show-answers",
        action="store_true",
        help="show the model's prediction before labelling, which biases labels towards it",
    )
    add("--port", type=int, default=0, help="(default: a free one)")
    add("--open", action="store_true", help="open the page in a browser")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal()))
