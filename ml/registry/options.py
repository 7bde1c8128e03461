"""The command line of the registry."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

from ml.registry.limits import Limits
from ml.registry.registry import CHAMPION


def add_gate_options(sub: argparse.ArgumentParser) -> None:
    """Adds an option for each field of `Limits`; what is not typed stays out of the result."""
    limits = Limits()
    gates = sub.add_argument_group("gates")
    number: dict[str, Any] = {"type": float, "metavar": "X", "default": argparse.SUPPRESS}
    gates.add_argument("--margin", **number, help=f"accuracy that may be lost ({limits.margin})")
    gates.add_argument(
        "--alpha", **number, help=f"chance of passing a model that loses more ({limits.alpha})"
    )
    gates.add_argument(
        "--must-be-better",
        action="store_true",
        default=argparse.SUPPRESS,
        help="significantly better than the champion, not only no worse",
    )
    gates.add_argument("--min-accuracy", **number, help="share of images (no limit)")
    gates.add_argument(
        "--max-calibration-error", **number, help=f"({limits.max_calibration_error})"
    )
    gates.add_argument(
        "--max-bytes", **number | {"type": int}, help=f"size of the file ({limits.max_bytes:,})"
    )
    gates.add_argument("--p99-ms", **number, help=f"one image on one thread ({limits.p99_ms:g})")
    gates.add_argument(
        "--use-benchmark",
        action="store_true",
        help="take the latency from the benchmark in the run folder instead of measuring it",
    )


_Commands = Any  # argparse has no public name for what add_subparsers returns
_DESCRIPTION = """\
The model registry: which models there are, which one is live, who decided it, and why.

  register runs/<folder>      keep the model of a finished training, with everything it came from
  list                        all versions: accuracy, size, aliases
  promote 3fa8                make a version the champion, if it passes the gates
  rollback                    back to the champion before
  explain champion            commit, data, configuration, metrics and decisions behind a model
"""
_EPILOGUE = """\
A REF is an alias (champion), a version or the start of one (3fa8), or a linked image (sha256:…).
The registry is --registry, else KILN_REGISTRY, else the folder .kiln/registry of the workspace:
a path, file:///path, or s3://bucket/prefix (AWS_ENDPOINT_URL for stores that are not Amazon's).
Exit codes: 0 done, 1 refused (a gate, somebody was faster, damage found), 2 bad input.
"""


def parser() -> argparse.ArgumentParser:
    """The parser of all sub-commands; the chosen one is in `command`."""
    top = argparse.ArgumentParser(
        prog="registry",
        description=_DESCRIPTION,
        epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _list,
        _register,
        _promote,
        _rollback,
        _unalias,
        _history,
        _explain,
        _pull,
        _link,
        _verify,
        _gc,
    ):
        add(commands)
    return top


def _command(commands: _Commands, name: str, text: str, *examples: str) -> argparse.ArgumentParser:
    lines = "\n".join(f"  bazel run //ml:registry -- {example}" for example in examples)
    sub: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text[0].lower() + text[1:].split(".")[0].split(";")[0],
        description=textwrap.fill(text, 100),
        epilog=f"examples:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument("--registry", metavar="URL", help="where it is (default: KILN_REGISTRY)")
    sub.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    return sub


def _writes(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--reason", default="", metavar="TEXT", help="kept in the history")
    sub.add_argument(
        "--by", metavar="WHO", help="kept in the history (default: KILN_ACTOR, or you)"
    )


def _mirrors(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--wandb",
        metavar="PROJECT",
        help="show it in Weights & Biases too (default: KILN_REGISTRY_WANDB); never fails",
    )


def _list(commands: _Commands) -> None:
    _command(commands, "list", "All versions, the newest first.", "list", "list --json")


def _register(commands: _Commands) -> None:
    sub = _command(
        commands,
        "register",
        "Keep a model under its version, with everything it came from. The same file again changes "
        "nothing.",
        "register runs/2026-11-25_10-00-00_default",
        "register model.int8.onnx --parent champion --relation 'int8 of'",
    )
    sub.add_argument("model", help="finished run folder, or model.onnx")
    sub.add_argument("--parent", metavar="REF", action="append", default=[], help="made from it")
    sub.add_argument("--relation", default="made from", help="how, e.g. 'int8 of' (%(default)s)")
    _writes(sub)
    _mirrors(sub)


def _promote(commands: _Commands) -> None:
    sub = _command(
        commands,
        "promote",
        "Point an alias at a version, if it passes the gates. It is compared with the champion on "
        "the same test images (McNemar's exact test) where they are at hand, else by the recorded "
        "accuracies (two proportions); a loss beyond the margin must be ruled out.",
        "promote 3fa8 --reason 'wider network'",
        "promote 3fa8 --alias challenger --dry-run",
        "promote 3fa8 --margin 0.003 --p99-ms 5",
        "promote 3fa8 --force --reason 'the champion leaks memory'",
    )
    sub.add_argument("version", metavar="REF")
    sub.add_argument("--alias", default=CHAMPION, help="(default: %(default)s)")
    sub.add_argument("--against", metavar="REF", help="compare with this (default: the champion)")
    sub.add_argument("--dry-run", action="store_true", help="ask the gates, change nothing")
    sub.add_argument("--force", action="store_true", help="in spite of the gates; needs --reason")
    _writes(sub)
    _mirrors(sub)
    data = sub.add_mutually_exclusive_group()
    data.add_argument(
        "--test-data",
        metavar="NPZ",
        help="arrays images (uint8, N×H×W×3) and labels; default: the test images of the dataset "
        "that the model was made from",
    )
    data.add_argument("--no-test-data", action="store_true", help="compare recorded accuracies")
    add_gate_options(sub)


def _rollback(commands: _Commands) -> None:
    sub = _command(
        commands,
        "rollback",
        "Point an alias back at its version before, at once: no gate is asked. A second rollback "
        "goes one further back; with --from it can be repeated safely.",
        "rollback --reason 'errors on phones'",
        "rollback --from 3fa8 --reason 'errors on phones'",
        "rollback --to 91c2",
    )
    sub.add_argument("--alias", default=CHAMPION, help="(default: %(default)s)")
    sub.add_argument("--to", metavar="REF", help="this version instead of the one before")
    sub.add_argument("--from", dest="expected", metavar="REF", help="only if this is live now")
    _writes(sub)
    _mirrors(sub)


def _unalias(commands: _Commands) -> None:
    sub = _command(
        commands,
        "unalias",
        "Take an alias away. Its history stays; a rollback brings it back.",
        "unalias challenger",
    )
    sub.add_argument("alias")
    _writes(sub)


def _history(commands: _Commands) -> None:
    sub = _command(
        commands,
        "history",
        "Every promotion, rollback and refusal: who, when, from, to, verdict, why.",
        "history",
        "history --alias champion --json",
    )
    sub.add_argument("--alias", help="of this one alone")


def _explain(commands: _Commands) -> None:
    sub = _command(
        commands,
        "explain",
        "Walk back from an alias, version, image or request to commit, data, configuration, "
        "metrics and decisions.",
        "explain champion",
        "explain sha256:9c1f",
        "explain 4bf92f3577b34da6 --log service.jsonl",
        """explain '{"request_id": "4bf92f35", "model_version": "3fa8"}'""",
    )
    sub.add_argument("reference", metavar="REF", help="or a JSON log line, or a request id")
    sub.add_argument("--log", metavar="FILE", help="of the service, where the request id is")
    sub.add_argument("--all", action="store_true", help="with configuration and all evidence")


def _pull(commands: _Commands) -> None:
    sub = _command(
        commands,
        "pull",
        "Write a version's model to a file, checked.",
        "pull champion -o model.onnx",
    )
    sub.add_argument("version", metavar="REF")
    sub.add_argument("-o", "--output", metavar="FILE", help="(default: <name>-<version>.onnx)")
    sub.add_argument("--overwrite", action="store_true", help="replace another file there")


def _link(commands: _Commands) -> None:
    sub = _command(
        commands,
        "link",
        "Record which version a container image holds, so that the image can be explained.",
        "link --image sha256:9c1f… --version champion",
    )
    sub.add_argument("--image", required=True, metavar="DIGEST", help="sha256: and 64 digits")
    sub.add_argument("--version", required=True, metavar="REF")
    _writes(sub)


def _verify(commands: _Commands) -> None:
    _command(
        commands,
        "verify",
        "Read everything and check it: models, manifests, the chain of the ledger, links.",
        "verify",
    )


def _gc(commands: _Commands) -> None:
    sub = _command(
        commands,
        "gc",
        "Remove what killed registrations left. Versions and history always stay.",
        "gc --dry-run",
    )
    sub.add_argument("--dry-run", action="store_true", help="say what would go")
    sub.add_argument(
        "--older-than-hours", type=float, default=24.0, metavar="X", help="(default: %(default)g)"
    )
