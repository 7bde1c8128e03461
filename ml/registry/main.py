"""The model registry from a terminal or a script: ``bazel run //ml:registry -- --help``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape

from common.command_line import command_parser
from common.objects import StoreError
from common.terminal import Progress as Heartbeat
from common.terminal import terminal
from ml.registry import commands
from ml.registry.commands import CommandResult, Progress
from ml.registry.ledger import GateLimits, RegistryError
from ml.registry.registry import CHAMPION, Registry, usual_location
from ml.registry.signing import PRIVATE, PUBLIC

INTERRUPTED = 130  # exit code after Ctrl-C, as in shells

_Subparsers = Any  # argparse has no public name for add_subparsers' result
_Handler = Callable[[Registry, argparse.Namespace, Progress], CommandResult]
_DESCRIPTION = """\
The model registry: all models, which one is live, who decided that, and why.

  register runs/<folder>      register the model of a finished run with its provenance
  list                        all versions: accuracy, size, aliases
  promote 3fa8                make a version the champion, if it passes the gates
  rollback                    return to the previous champion
  explain champion            commit, data, configuration, metrics and decisions behind a model
"""
_EPILOGUE = """\
A REF is an alias (champion), a version or its prefix (3fa8), or a linked image (sha256:…).
The registry is --registry, else KILN_REGISTRY, else the folder .kiln/registry of the workspace:
a path, file:///path, or s3://bucket/prefix (AWS_ENDPOINT_URL for stores that are not Amazon's).
Exit codes: 0 done, 1 refused (by a gate, a concurrent change, damage), 2 bad input.
"""


def main(arguments: Sequence[str], console: Console, errors: Console) -> int:
    """Runs one command; returns its exit code."""
    options = parser().parse_args(arguments)
    try:
        with _progress(errors) as progress:
            registry = Registry.open(_location(options), getattr(options, "by", None))
            result = options.handler(registry, options, progress)
    except (RegistryError, StoreError) as exc:
        if options.json:
            result = CommandResult(
                print, {"error": str(exc), "exit_code": exc.exit_code}, exc.exit_code
            )
        else:
            errors.print(f"[red]{escape(str(exc))}[/]", highlight=False, soft_wrap=True)
            return exc.exit_code
    except KeyboardInterrupt:
        errors.print("Interrupted: whatever was not reported as done was not done.")
        return INTERRUPTED
    if options.json:
        console.file.write(json.dumps(result.data, indent=2, ensure_ascii=False) + "\n")
    else:
        result.show(console)
    return result.exit_code


@contextmanager
def _progress(errors: Console) -> Iterator[Progress]:
    """Progress: a changing line on a terminal, otherwise a line per step, and more for a long one;
    never on stdout.
    """
    with Heartbeat("reading the registry", console=errors) as heartbeat:

        def begin(text: str) -> None:
            heartbeat.begin(text)
            if not errors.is_terminal:
                errors.print(f"{text} ...", highlight=False, soft_wrap=True)

        yield begin


def _location(options: argparse.Namespace) -> str:
    return str(options.registry or usual_location())


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; the chosen command's function is in `handler`."""
    top = command_parser("//ml:registry", _DESCRIPTION, _EPILOGUE)
    subs = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _list,
        _register,
        _sign,
        _promote,
        _rollback,
        _unalias,
        _history,
        _explain,
        _pull,
        _link,
        _verify,
        _new_key,
        _gc,
    ):
        add(subs)
    return top


def _command(
    subs: _Subparsers, name: str, handler: _Handler, text: str, *examples: str
) -> argparse.ArgumentParser:
    lines = "\n".join(f"  bazel run //ml:registry -- {example}" for example in examples)
    sub: argparse.ArgumentParser = subs.add_parser(
        name,
        help=text[0].lower() + text[1:].split(".")[0].split(";")[0],
        description=textwrap.fill(text, 100),
        epilog=f"examples:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.set_defaults(handler=handler)
    sub.add_argument("--registry", metavar="URL", help="its location (default: KILN_REGISTRY)")
    sub.add_argument("--json", action="store_true", help="print JSON")
    return sub


def _writes(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--reason", default="", metavar="TEXT", help="reason, recorded in the history")
    sub.add_argument(
        "--by",
        metavar="WHO",
        help="actor, recorded in the history (default: KILN_ACTOR, or your user name)",
    )


def _mirrors(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--wandb",
        metavar="PROJECT",
        help="also log to Weights & Biases (default: KILN_REGISTRY_WANDB); never fails",
    )


def _list(subs: _Subparsers) -> None:
    _command(
        subs,
        "list",
        commands.list_versions,
        "All versions, the newest first.",
        "list",
        "list --json",
    )


def _register(subs: _Subparsers) -> None:
    sub = _command(
        subs,
        "register",
        commands.register,
        "Keep a model under its version, with everything it came from. The same file again changes "
        "nothing.",
        "register runs/2026-11-25_10-00-00_default",
        "register model.int8.onnx --parent champion --relation 'int8 of'",
    )
    sub.add_argument("model", help="finished run folder, or model.onnx")
    sub.add_argument(
        "--parent", metavar="REF", action="append", default=[], help="version that it was made from"
    )
    sub.add_argument(
        "--relation", default="made from", help="how it was made, such as 'int8 of' (%(default)s)"
    )
    _signs(sub)
    _writes(sub)
    _mirrors(sub)


def _sign(subs: _Subparsers) -> None:
    sub = _command(
        subs,
        "sign",
        commands.sign_version,
        "Sign a registered version, in OpenSSF's format; `register` does it where it has a key.",
        "sign champion --sign-with keys/model.key",
        "sign champion --sign-with awskms:///alias/kiln-signing",
    )
    sub.add_argument("version", metavar="REF")
    _signs(sub)


def _new_key(subs: _Subparsers) -> None:
    sub = _command(
        subs,
        "new-key",
        commands.make_key,
        "Write a pair of keys to sign models with, model.key and model.pub; KILN_SIGNING_PASSWORD "
        "encrypts the former. With --public-of, print the public half of a key that exists.",
        "new-key keys/",
        "new-key --public-of awskms:///alias/kiln-signing",
    )
    which = sub.add_mutually_exclusive_group(required=True)
    which.add_argument("folder", nargs="?", help="folder for the two files")
    which.add_argument("--public-of", metavar="KEY", help="a private key file, or awskms:///…")


def _signs(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--sign-with",
        metavar="KEY",
        default=os.environ.get(PRIVATE),
        help=f"private key in PEM, or awskms:///alias/NAME (default: {PRIVATE}, else not signed)",
    )


def _trusts(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--model-key",
        metavar="KEY",
        help=f"public key whose signature is asked for (default: {PUBLIC}; none: not asked)",
    )


def _promote(subs: _Subparsers) -> None:
    sub = _command(
        subs,
        "promote",
        commands.promote,
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
    sub.add_argument(
        "--against", metavar="REF", help="version to compare with (default: the champion)"
    )
    sub.add_argument("--dry-run", action="store_true", help="evaluate the gates, change nothing")
    sub.add_argument("--force", action="store_true", help="override the gates; needs --reason")
    _trusts(sub)
    _writes(sub)
    _mirrors(sub)
    data = sub.add_mutually_exclusive_group()
    data.add_argument(
        "--test-data",
        metavar="NPZ",
        help="arrays images (uint8, N×H×W×3), labels, and perhaps classes (names); default: the "
        "test images of the dataset that the model was made from, by its run's configuration",
    )
    data.add_argument("--no-test-data", action="store_true", help="compare recorded accuracies")
    _gate_options(sub)


def _rollback(subs: _Subparsers) -> None:
    sub = _command(
        subs,
        "rollback",
        commands.rollback,
        "Point an alias back at its version before, at once: no gate is asked. A second rollback "
        "goes one further back; with --from it can be repeated safely.",
        "rollback --reason 'errors on phones'",
        "rollback --from 3fa8 --reason 'errors on phones'",
        "rollback --to 91c2",
    )
    sub.add_argument("--alias", default=CHAMPION, help="(default: %(default)s)")
    sub.add_argument(
        "--to", metavar="REF", help="return to this version instead of the previous one"
    )
    sub.add_argument(
        "--from", dest="expected", metavar="REF", help="only if this version is live now"
    )
    _writes(sub)
    _mirrors(sub)


def _unalias(subs: _Subparsers) -> None:
    sub = _command(
        subs,
        "unalias",
        commands.unalias,
        "Take an alias away. Its history stays; a rollback brings it back.",
        "unalias challenger",
    )
    sub.add_argument("alias")
    _writes(sub)


def _history(subs: _Subparsers) -> None:
    sub = _command(
        subs,
        "history",
        commands.history,
        "Every promotion, rollback and refusal: who, when, from, to, verdict, why.",
        "history",
        "history --alias champion --json",
    )
    sub.add_argument("--alias", help="only this alias")


def _explain(subs: _Subparsers) -> None:
    sub = _command(
        subs,
        "explain",
        commands.explain_reference,
        "Walk back from an alias, version, image or request to commit, data, configuration, "
        "metrics and decisions.",
        "explain champion",
        "explain sha256:9c1f",
        "explain 4bf92f3577b34da6 --log service.jsonl",
        """explain '{"request_id": "4bf92f35", "model_version": "3fa8"}'""",
    )
    sub.add_argument("reference", metavar="REF", help="or a JSON log line, or a request id")
    sub.add_argument("--log", metavar="FILE", help="the service's log with the request id")
    sub.add_argument("--all", action="store_true", help="include configuration and all evidence")
    _trusts(sub)


def _pull(subs: _Subparsers) -> None:
    sub = _command(
        subs,
        "pull",
        commands.pull,
        "Write a version's model to a file, checked, and its signature beside it.",
        "pull champion -o model.onnx",
    )
    sub.add_argument("version", metavar="REF")
    sub.add_argument("-o", "--output", metavar="FILE", help="(default: <name>-<version>.onnx)")
    sub.add_argument("--overwrite", action="store_true", help="overwrite an existing file")
    _trusts(sub)


def _link(subs: _Subparsers) -> None:
    sub = _command(
        subs,
        "link",
        commands.link,
        "Record which version a container image holds, so that the image can be explained.",
        "link --image sha256:9c1f… --version champion",
    )
    sub.add_argument("--image", required=True, metavar="DIGEST", help="sha256: and 64 digits")
    sub.add_argument("--version", required=True, metavar="REF")
    _writes(sub)


def _verify(subs: _Subparsers) -> None:
    sub = _command(
        subs,
        "verify",
        commands.verify,
        "Read everything and check it: models, manifests, signatures, the ledger's chain, links.",
        "verify",
        "verify --model-key keys/model.pub",
    )
    _trusts(sub)


def _gc(subs: _Subparsers) -> None:
    sub = _command(
        subs,
        "gc",
        commands.gc,
        "Remove what killed registrations left. Versions and history always stay.",
        "gc --dry-run",
    )
    sub.add_argument("--dry-run", action="store_true", help="only list what would be removed")
    sub.add_argument(
        "--older-than-hours", type=float, default=24.0, metavar="X", help="(default: %(default)g)"
    )


def _gate_options(sub: argparse.ArgumentParser) -> None:
    """Adds an option per field of `GateLimits`; options not given are left out of the result."""
    limits = GateLimits()
    gates = sub.add_argument_group("gates")
    number: dict[str, Any] = {"type": float, "metavar": "X", "default": argparse.SUPPRESS}
    gates.add_argument("--margin", **number, help=f"allowed loss of accuracy ({limits.margin})")
    gates.add_argument(
        "--alpha", **number, help=f"probability of passing a model that loses more ({limits.alpha})"
    )
    gates.add_argument(
        "--must-be-better",
        action="store_true",
        default=argparse.SUPPRESS,
        help="require a significant improvement over the champion, not only non-inferiority",
    )
    gates.add_argument("--min-accuracy", **number, help="share of images (no limit)")
    gates.add_argument(
        "--max-calibration-error", **number, help=f"({limits.max_calibration_error})"
    )
    gates.add_argument(
        "--max-excess-loss",
        **number,
        help="share by which log loss and Brier score may exceed what the model's own answers "
        f"expect ({limits.max_excess_loss})",
    )
    gates.add_argument(
        "--max-bytes", **number | {"type": int}, help=f"maximum file size ({limits.max_bytes:,})"
    )
    gates.add_argument(
        "--p99-ms", **number, help=f"p99 limit for one image on one thread ({limits.p99_ms:g})"
    )
    gates.add_argument(
        "--use-benchmark",
        action="store_true",
        help="use the latency in the run folder's benchmark instead of measuring it",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal(140), terminal(140, stderr=True)))
