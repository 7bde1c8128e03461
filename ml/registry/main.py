"""The model registry from a terminal or a script: ``bazel run //ml:registry -- --help``."""

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

_Add = Callable[[argparse.ArgumentParser], object]  # adds one argument to a parser, or several
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
    options = parser().parse_args(arguments)
    try:
        with _progress(errors) as progress:
            registry = Registry.open(
                str(options.registry or usual_location()), getattr(options, "by", None)
            )
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


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; the chosen command's function is in `handler`."""
    top = command_parser("//ml:registry", _DESCRIPTION, _EPILOGUE)
    subs = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (handler, text, examples, adds) in _COMMANDS.items():
        lines = "\n".join(f"  bazel run //ml:registry -- {example}" for example in examples)
        sub = subs.add_parser(
            name,
            help=text[0].lower() + text[1:].split(".")[0].split(";")[0],
            description=textwrap.fill(text, 100),
            epilog=f"examples:\n{lines}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(handler=handler)
        sub.add_argument("--registry", metavar="URL", help="its location (default: KILN_REGISTRY)")
        sub.add_argument("--json", action="store_true", help="print JSON")
        for add in adds:
            add(sub)
    return top


def _argument(*names: str, **options: Any) -> _Add:
    return lambda parser: parser.add_argument(*names, **options)


def _exclusive(*adds: _Add, required: bool = False) -> _Add:
    def add_all(parser: argparse.ArgumentParser) -> None:
        group: Any = parser.add_mutually_exclusive_group(required=required)
        for add in adds:
            add(group)

    return add_all


def _sign_with(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sign-with",
        metavar="KEY",
        default=os.environ.get(PRIVATE),
        help=f"private key in PEM, or awskms:///alias/NAME (default: {PRIVATE}, else not signed)",
    )


def _gate_options(parser: argparse.ArgumentParser) -> None:
    """Adds an option per field of `GateLimits`; options not given are left out of the result."""
    limits = GateLimits()
    gates = parser.add_argument_group("gates")
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


_REF = _argument("version", metavar="REF")
_ALIAS = _argument("--alias", default=CHAMPION, help="(default: %(default)s)")
_REASON = _argument("--reason", default="", metavar="TEXT", help="reason, recorded in the history")
_BY = _argument(
    "--by",
    metavar="WHO",
    help="actor, recorded in the history (default: KILN_ACTOR, or your user name)",
)
_WANDB = _argument(
    "--wandb",
    metavar="PROJECT",
    help="also log to Weights & Biases (default: KILN_REGISTRY_WANDB); never fails",
)
_MODEL_KEY = _argument(
    "--model-key",
    metavar="KEY",
    help=f"public key whose signature is asked for (default: {PUBLIC}; none: not asked)",
)

# By name: the function, what it does, examples, and its arguments beside --registry and --json.
_COMMANDS: dict[str, tuple[_Handler, str, Sequence[str], Sequence[_Add]]] = {
    "list": (
        commands.list_versions,
        "All versions, the newest first.",
        ("list", "list --json"),
        (),
    ),
    "register": (
        commands.register,
        "Keep a model under its version, with everything it came from. The same file again changes "
        "nothing.",
        (
            "register runs/2026-11-25_10-00-00_default",
            "register model.int8.onnx --parent champion --relation 'int8 of'",
        ),
        (
            _argument("model", help="finished run folder, or model.onnx"),
            _argument(
                "--parent",
                metavar="REF",
                action="append",
                default=[],
                help="version that it was made from",
            ),
            _argument(
                "--relation",
                default="made from",
                help="how it was made, such as 'int8 of' (%(default)s)",
            ),
            _sign_with,
            _REASON,
            _BY,
            _WANDB,
        ),
    ),
    "sign": (
        commands.sign_version,
        "Sign a registered version, in OpenSSF's format; `register` does it where it has a key.",
        (
            "sign champion --sign-with keys/model.key",
            "sign champion --sign-with awskms:///alias/kiln-signing",
        ),
        (_REF, _sign_with),
    ),
    "promote": (
        commands.promote,
        "Point an alias at a version, if it passes the gates. It is compared with the champion on "
        "the same test images (McNemar's exact test) where they are at hand, else by the recorded "
        "accuracies (two proportions); a loss beyond the margin must be ruled out.",
        (
            "promote 3fa8 --reason 'wider network'",
            "promote 3fa8 --alias challenger --dry-run",
            "promote 3fa8 --margin 0.003 --p99-ms 5",
            "promote 3fa8 --force --reason 'the champion leaks memory'",
        ),
        (
            _REF,
            _ALIAS,
            _argument(
                "--against", metavar="REF", help="version to compare with (default: the champion)"
            ),
            _argument("--dry-run", action="store_true", help="evaluate the gates, change nothing"),
            _argument("--force", action="store_true", help="override the gates; needs --reason"),
            _MODEL_KEY,
            _REASON,
            _BY,
            _WANDB,
            _exclusive(
                _argument(
                    "--test-data",
                    metavar="NPZ",
                    help="arrays images (uint8, N×H×W×3), labels, and perhaps classes (names); "
                    "default: the test images of the dataset that the model was made from, by its "
                    "run's configuration",
                ),
                _argument(
                    "--no-test-data", action="store_true", help="compare recorded accuracies"
                ),
            ),
            _gate_options,
        ),
    ),
    "rollback": (
        commands.rollback,
        "Point an alias back at its version before, at once: no gate is asked. A second rollback "
        "goes one further back; with --from it can be repeated safely.",
        (
            "rollback --reason 'errors on phones'",
            "rollback --from 3fa8 --reason 'errors on phones'",
            "rollback --to 91c2",
        ),
        (
            _ALIAS,
            _argument(
                "--to", metavar="REF", help="return to this version instead of the previous one"
            ),
            _argument(
                "--from", dest="expected", metavar="REF", help="only if this version is live now"
            ),
            _REASON,
            _BY,
            _WANDB,
        ),
    ),
    "unalias": (
        commands.unalias,
        "Take an alias away. Its history stays; a rollback brings it back.",
        ("unalias challenger",),
        (_argument("alias"), _REASON, _BY),
    ),
    "history": (
        commands.history,
        "Every promotion, rollback and refusal: who, when, from, to, verdict, why.",
        ("history", "history --alias champion --json"),
        (_argument("--alias", help="only this alias"),),
    ),
    "explain": (
        commands.explain_reference,
        "Walk back from an alias, version, image or request to commit, data, configuration, "
        "metrics and decisions.",
        (
            "explain champion",
            "explain sha256:9c1f",
            "explain 4bf92f3577b34da6 --log service.jsonl",
            """explain '{"request_id": "4bf92f35", "model_version": "3fa8"}'""",
        ),
        (
            _argument("reference", metavar="REF", help="or a JSON log line, or a request id"),
            _argument("--log", metavar="FILE", help="the service's log with the request id"),
            _argument("--all", action="store_true", help="include configuration and all evidence"),
            _MODEL_KEY,
        ),
    ),
    "pull": (
        commands.pull,
        "Write a version's model to a file, checked, and its signature beside it.",
        ("pull champion -o model.onnx",),
        (
            _REF,
            _argument("-o", "--output", metavar="FILE", help="(default: <name>-<version>.onnx)"),
            _argument("--overwrite", action="store_true", help="overwrite an existing file"),
            _MODEL_KEY,
        ),
    ),
    "link": (
        commands.link,
        "Record which version a container image holds, so that the image can be explained.",
        ("link --image sha256:9c1f… --version champion",),
        (
            _argument("--image", required=True, metavar="DIGEST", help="sha256: and 64 digits"),
            _argument("--version", required=True, metavar="REF"),
            _REASON,
            _BY,
        ),
    ),
    "verify": (
        commands.verify,
        "Read everything and check it: models, manifests, signatures, the ledger's chain, links.",
        ("verify", "verify --model-key keys/model.pub"),
        (_MODEL_KEY,),
    ),
    "new-key": (
        commands.make_key,
        "Write a pair of keys to sign models with, model.key and model.pub; KILN_SIGNING_PASSWORD "
        "encrypts the former. With --public-of, print the public half of a key that exists.",
        ("new-key keys/", "new-key --public-of awskms:///alias/kiln-signing"),
        (
            _exclusive(
                _argument("folder", nargs="?", help="folder for the two files"),
                _argument("--public-of", metavar="KEY", help="a private key file, or awskms:///…"),
                required=True,
            ),
        ),
    ),
    "gc": (
        commands.gc,
        "Remove what killed registrations left. Versions and history always stay.",
        ("gc --dry-run",),
        (
            _argument("--dry-run", action="store_true", help="only list what would be removed"),
            _argument(
                "--older-than-hours",
                type=float,
                default=24.0,
                metavar="X",
                help="(default: %(default)g)",
            ),
        ),
    ),
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal(140), terminal(140, stderr=True)))
