"""Plays the twin's second story: bazel run //infra:twin -- --story loop

A model is trained, released and answers; the camera changes; the service raises drift and the
accuracy to expect without labels falls; callers send the truth about answers; //ml:retrain makes
the next model, gated and signed; a canary with live labels promotes it; the estimate recovers.
Then the same with a fifth of the labels wrong, which must promote nothing. Writes loop.json and
loop.png.

Exit codes: 0 every promise was kept, 1 one was not, 2 the machine or the input cannot be used, 130
interrupted before the end.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.markup import escape

from common.files import user_path, write_whole
from common.terminal import terminal
from infra.twin.findings import show
from infra.twin.loop.findings import draw, find
from infra.twin.loop.programs import NAMES, Programs
from infra.twin.loop.story import TRAINED_ON, Loop, Plan, as_dict
from infra.twin.story import Failed, Narrator, output_folder

KEPT, BROKEN, UNUSABLE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    narrator = Narrator(terminal(140))
    paths = {name: getattr(options, name.replace("-", "_")) for name in NAMES}
    plan = Plan(
        options.rate,
        endings=options.endings,
        corruption=options.corruption,
        seed=options.seed,
        run=options.run and user_path(options.run),
    )
    try:
        place = output_folder(options.out)
        with tempfile.TemporaryDirectory(prefix="kiln-loop-") as folder, narrator.working():
            kept = options.keep and place / "loop"
            programs = Programs(paths, (kept or Path(folder)).absolute(), narrator)
            programs.workspace.mkdir(parents=True, exist_ok=True)
            observed = Loop(programs, plan, narrator).play()
    except (Failed, OSError) as error:
        terminal(140, stderr=True).print(f"[red]{escape(str(error))}[/]", soft_wrap=True)
        return UNUSABLE
    except KeyboardInterrupt:
        narrator.say("interrupted: nothing of it runs any more")
        return INTERRUPTED
    findings = find(observed)
    kept_all = all(finding.kept for finding in findings)
    document = {"kept": kept_all, "findings": [asdict(f) for f in findings], **as_dict(observed)}
    write_whole(place / "loop.json", json.dumps(document, indent=2, default=str) + "\n")
    write_whole(place / "loop.png", draw(observed))
    narrator.say(f"wrote {place / 'loop.json'} and loop.png")
    show(findings, observed.took_s, narrator.console)
    return KEPT if kept_all else BROKEN


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bazel run //infra:twin -- --story loop",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name in NAMES:
        parser.add_argument(f"--{name}", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, default=120.0, help="requests a second (%(default)g)")
    parser.add_argument(
        "--corruption", default="contrast:3", help="what happens to the camera (%(default)s)"
    )
    parser.add_argument(
        "--endings", type=int, default=1, help="how often wrong labels are tried (%(default)s)"
    )
    parser.add_argument(
        "--run",
        metavar="FOLDER",
        help=f"the first model's, trained with data.train_size={TRAINED_ON} (default: trains it)",
    )
    parser.add_argument("--keep", action="store_true", help="keep runs, registry and captures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", metavar="FOLDER", help="(default: .kiln/twin)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
