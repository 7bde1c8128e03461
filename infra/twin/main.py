"""Runs and checks the whole path on this machine: bazel run //infra:twin"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape

from common.command_line import command_parser, positive
from common.programs import ProgramMissing
from common.terminal import terminal
from infra.terraform.program import TerraformError
from infra.twin import models, story
from infra.twin.deployment import Deployer, NotPushed
from infra.twin.findings import Finding, Release, Traffic, draw, find, measure, show
from infra.twin.story import Failed, Narrator, Platform

BAD = ("mislabelled", "slow", "crashing")
_DESCRIPTION = """\
Kiln's whole path on this machine, without a cloud account: an image with a model, pushed to a
registry; Terraform and `//infra:deploy` against AWS's APIs on loopback; callers; a good release,
which must be promoted, and bad ones, which must be rolled back automatically, with an alert.
Writes its observations as JSON and as a plot.
"""
# Set by the BUILD file, for this story and the other one.
_BUILT = ("image", "trained", "bundled", "bundled-int8", "golden", "deploy", "load", "config")
_LOOP = ("loop", "program")
_EPILOG = """\
examples:
  bazel run //infra:twin
  bazel run //infra:twin -- --quick
  bazel run //infra:twin -- --bad slow --keep
  bazel run //infra:twin -- --story loop

exit codes: 0 all expectations met, 1 some failed, 2 the machine or the input cannot be used,
130 interrupted
"""


def parser() -> argparse.ArgumentParser:
    found = command_parser("//infra:twin", _DESCRIPTION, _EPILOG)
    for hidden in _BUILT:
        found.add_argument(f"--{hidden}", type=Path, required=True, help=argparse.SUPPRESS)
    for hidden in _LOOP:
        found.add_argument(f"--{hidden}", action="append", help=argparse.SUPPRESS)
    found.add_argument(
        "--story",
        choices=("releases", "loop"),
        default="releases",
        help="releases: good ones and bad ones (default); loop: from answers back to a better "
        "model, with options of its own: --story loop --help",
    )
    found.add_argument(
        "--model",
        choices=("trained", "bundled"),
        default="trained",
        help="what is released: trained by this build in half a minute, and then with weights of "
        "16 bits (default); or the bundled model in fp32, and then in INT8, as Kiln serves it",
    )
    found.add_argument(
        "--bad",
        action="append",
        choices=BAD,
        help="only these bad releases; may be given repeatedly (default: all)",
    )
    found.add_argument("--quick", action="store_true", help="only the good release and one bad one")
    found.add_argument(
        "--keep",
        action="store_true",
        help="keep everything running until Ctrl-C, callers included, and print example commands",
    )
    found.add_argument(
        "--rate", type=positive, default=80.0, help="requests per second (default: 80)"
    )
    found.add_argument(
        "--seed", type=int, default=0, help="seed of the callers and of the alias's choices"
    )
    found.add_argument(
        "--out", metavar="FOLDER", help="folder for twin.json and twin.png (default: .kiln/twin)"
    )
    return found


def loop_command(words: Sequence[str]) -> list[str] | None:
    """The command line of the second story, if it was chosen: the programs from the build, and the
    user's options.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--story")
    for hidden in _BUILT:
        early.add_argument(f"--{hidden}")
    for hidden in _LOOP:
        early.add_argument(f"--{hidden}", action="append", default=[])
    options, typed = early.parse_known_args(words)
    if options.story != "loop":
        return None
    named = [text.partition("=") for text in options.program]
    programs = [word for name, _, path in named for word in (f"--{name}", os.path.abspath(path))]
    return [os.path.abspath(options.loop[0]), *programs, *typed]


def bad_releases(options: argparse.Namespace) -> tuple[str, ...]:
    """The selected bad releases, in the story's order."""
    chosen = options.bad or (BAD[:1] if options.quick else BAD)
    return tuple(name for name in BAD if name in chosen)


_RUN = "./tools/bazel run //infra:"


def command_lines(
    deployer: Deployer,
    images: Mapping[str, str],
    environment: Mapping[str, str],
    unset: Sequence[str],
    url: str,
) -> Iterator[str]:
    """Shell lines: environment variables, then commands, the last of them for each image.

    Args:
        images: URIs by name.
        environment: endpoints of the AWS APIs.
        unset: variables that would interfere.
    """
    yield f"unset {' '.join(unset)}"
    found = {
        **environment,
        "KILN_ENV": deployer.env,
        "KILN_TERRAFORM_STATE": str(deployer.state),
    }
    for name, value in found.items():
        yield f"export {name}={shlex.quote(value)}"
    pace, golden = shlex.join(deployer.pace), shlex.join(deployer.golden_set)
    variables = shlex.join(deployer.terraform)
    newest = list(images.values())[-1]
    yield ""
    yield f"curl {url}/ready"
    yield f"{_RUN}status"
    yield f"{_RUN}rollback -- {pace}"
    yield f"{_RUN}shadow -- --candidate 1 --rate 20 --share 0.02 {golden}"
    yield f"{_RUN}plan -- {variables} --image {newest}"
    yield f"{_RUN}destroy -- {variables} --dry-run"
    for name, uri in images.items():
        yield f"{_RUN}deploy -- {pace} {golden} {variables} --again --image {uri}  # {name}"


KEPT, BROKEN, UNUSABLE, INTERRUPTED = 0, 1, 2, 130
_FORGET_EVERY_S, _REMEMBERED_S = 60.0, 1800.0  # with --keep


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if command := loop_command(words):
        os.execv(command[0], command)  # noqa: S606 # of the build, without a shell
    options = parser().parse_args(words)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave no registry behind
    narrator = Narrator(terminal(140))
    try:
        place = story.output_folder(options.out)
        with tempfile.TemporaryDirectory(prefix="kiln-twin-") as folder, ExitStack() as work:
            work.enter_context(narrator.working())
            return run(options, Path(folder), place, narrator, work.close)
    except (Failed, NotPushed, ProgramMissing, TerraformError) as error:
        terminal(140, stderr=True).print(f"[red]{escape(str(error))}[/]", soft_wrap=True)
        return UNUSABLE
    except KeyboardInterrupt:
        narrator.say("interrupted: everything was stopped")
        return INTERRUPTED


def run(
    options: argparse.Namespace,
    folder: Path,
    place: Path,
    narrator: Narrator,
    rest: Callable[[], None],
) -> int:
    """Runs the story to its verdict; `rest` is called when only callers continue."""
    begun = time.monotonic()
    first, good = _models(options, folder)
    golden = folder / "golden.zip"
    bright = models.write_dark_golden_set(options.golden, good.read_bytes(), golden)
    images = models.candidates(
        options.image, first, good, bad_releases(options), bright, folder / "images"
    )
    narrator.say(f"made {len(images)} images, which differ in the model alone")
    with story.platform(folder, options.seed, narrator) as platform:
        uris = story.push_all(images, platform, narrator)
        deployer = _deployer(options, golden, folder, narrator)
        narrator.say("the first release: Terraform makes the service", "bold")
        service = story.first_release(uris[images[0].name], deployer)
        with story.alive(platform, service, _load(options, platform), narrator):
            releases = []
            for candidate in images[1:]:
                done = story.release(
                    candidate, uris[candidate.name], deployer, platform, service, narrator
                )
                releases.append(done)
                _say_numbers(done, platform.traffic, narrator)
            seen, took = platform.traffic.so_far(), time.monotonic() - begun
            findings = find(releases, seen, seen.routings[-1].weights)
            _write(place, releases, seen, findings, took, narrator)
            show(findings, took, narrator.console)
            if options.keep:
                rest()
                _stay(platform, deployer, uris, narrator)
    return KEPT if all(finding.kept for finding in findings) else BROKEN


def _models(options: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """The models of the first release and of the good one."""
    if options.model == "bundled":
        return options.bundled, options.bundled_int8
    better = folder / "rounded.onnx"
    better.write_bytes(models.rounded(options.trained.read_bytes()))
    return options.trained, better


def _deployer(
    options: argparse.Namespace, golden: Path, folder: Path, narrator: Narrator
) -> Deployer:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("BUILD_WORK")
    }
    return Deployer(
        options.deploy,
        options.config,
        golden,
        environment,
        folder,
        story.ENV,
        narrator.quote,
        story.WITHOUT,
    )


def _load(options: argparse.Namespace, platform: Platform) -> list[str]:
    program, images = str(options.load.absolute()), str(options.golden.absolute())
    command = [program, platform.cloud.url, images, "--rate", str(options.rate)]
    return [*command, "--seed", str(options.seed)]


def _say_numbers(release: Release, traffic: Traffic, narrator: Narrator) -> None:
    seen = measure(release, traffic)
    text = f"{release.name}: version {release.version} answered {seen.candidate_calls:,} callers"
    text += f", {seen.failed:,} of {seen.requests:,} requests failed"
    if seen.rollback_s is not None:
        text += f"; rolled back {seen.rollback_s:.1f} s after its first request"
    narrator.say(text, "green" if release.good else "yellow")
    began = release.deployment.began_s
    for alert in traffic.alerts:
        if alert.time_s >= began:
            narrator.say(f"alert: {alert.subject}", "yellow")


def _write(
    place: Path,
    releases: Sequence[Release],
    traffic: Traffic,
    findings: Sequence[Finding],
    took_s: float,
    narrator: Narrator,
) -> None:
    document: dict[str, Any] = {
        "took_s": round(took_s, 1),
        "kept": all(finding.kept for finding in findings),
        "findings": [asdict(finding) for finding in findings],
        "releases": [
            asdict(release) | {"measured": asdict(measure(release, traffic))}
            for release in releases
        ],
        "routings": [asdict(routing) for routing in traffic.routings],
        "alerts": [asdict(alert) for alert in traffic.alerts],
    }
    (place / "twin.json").write_text(json.dumps(document, indent=2, default=str) + "\n")
    (place / "twin.png").write_bytes(draw(traffic, releases))
    narrator.say(f"wrote {place / 'twin.json'} and twin.png")


def _stay(
    platform: Platform, deployer: Deployer, images: Mapping[str, str], narrator: Narrator
) -> None:
    """Keeps everything running, callers included, until Ctrl-C."""
    cloud, traffic = platform.cloud, platform.traffic
    narrator.say(
        "everything stays up until Ctrl-C. In another terminal, in this repository:", "bold"
    )
    for line in command_lines(deployer, images, cloud.environment, story.UNSET, cloud.url):
        narrator.console.out(line, highlight=False)
    try:
        while True:
            time.sleep(_FORGET_EVERY_S)
            traffic.responses.clear()
            traffic.calls.clear()
            cloud.forget(time.time() - _REMEMBERED_S)
    except KeyboardInterrupt:
        narrator.say("ending")


if __name__ == "__main__":
    sys.exit(main())
