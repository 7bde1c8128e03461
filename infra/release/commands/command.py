"""Shared parts of the commands: options, output for people and for scripts, exit codes."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape

from common.command_line import command_parser
from common.files import user_path, workspace_folder
from common.golden import GoldenSet, GoldenSetError, read_golden_set
from common.terminal import terminal
from infra.release.aws.clients import Aws, explained
from infra.release.errors import INTERRUPTED, ReleaseError
from infra.release.rollout.context import ReleaseContext
from infra.release.rollout.preflight import Image, parse_image
from infra.release.settings import Settings, read_settings
from infra.terraform.program import TerraformError
from infra.terraform.root import parse_variable
from infra.terraform.service import Infrastructure, ServiceOutputs, TerraformService
from infra.terraform.state import parse_state

ENVIRONMENTS = ("dev", "staging", "prod")
_GOLDEN_SET = Path(__file__).parents[1] / "golden_set.zip"
EXIT_CODES = """\
exit codes: 0 done (promoted, nothing to do), 1 refused (a check, the smoke test, another run), 2
input or AWS cannot be used, 10 stopped for a person to decide (plan: there are changes), 20 rolled
back, 30 the alias was moved and callers do not get correct answers, 70 an internal error, 130
interrupted
"""
_OWN_MISTAKE = 70  # EX_SOFTWARE of sysexits.h: no script takes it for "refused"
_INTERRUPTED = (
    "interrupted: the traffic stays as the ledger says, and nothing watches over it. Repeat the "
    "command to go on, or `bazel run //infra:rollback`; `//infra:status` shows where it goes"
)


@dataclass(frozen=True)
class Result:
    """The result of a command."""

    data: dict[str, Any]
    show: Callable[[Console], None] = field(default=lambda console: None)
    exit_code: int = 0


@dataclass(frozen=True)
class Terminal:
    """A command's output: results go to `out`, progress to `log`."""

    out: Console
    log: Console
    is_json: bool
    agreed: bool  # --yes

    def confirm(self, question: str) -> None:
        """Asks the user for confirmation.

        Raises:
            ReleaseError: they decline, or there is no terminal.
        """
        if self.agreed:
            return
        if not sys.stdin.isatty():
            raise ReleaseError(f"{question} Nobody is at the terminal: say so with --yes")
        if self.log.input(f"[bold]{escape(question)}[/] [y/N] ").strip().lower() not in (
            "y",
            "yes",
        ):
            raise ReleaseError("not confirmed: nothing was changed")


Open = Callable[[argparse.Namespace, Terminal], Infrastructure]
Handler = Callable[[argparse.Namespace, Terminal, Open], Result]


def parser(name: str, description: str, *examples: str) -> argparse.ArgumentParser:
    """An argument parser with the options that every command has."""
    lines = "\n".join(f"  bazel run //infra:{name} -- {example}" for example in examples)
    found = command_parser(f"//infra:{name}", description, f"examples:\n{lines}\n\n{EXIT_CODES}")
    found.add_argument(
        "--env",
        choices=ENVIRONMENTS,
        default=os.environ.get("KILN_ENV"),
        help="environment (default: KILN_ENV)",
    )
    found.add_argument("--yes", action="store_true", help="do not ask")
    found.add_argument("--json", action="store_true", help="one JSON document as the result")
    found.add_argument(
        "--config", metavar="FILE", help="TOML (default: infra/release/config/<env>.toml)"
    )
    found.add_argument(
        "--state",
        metavar="WHERE",
        default=os.environ.get("KILN_TERRAFORM_STATE"),
        help="Terraform's: s3://bucket/prefix, or a folder (default: KILN_TERRAFORM_STATE, else "
        ".kiln/terraform of the workspace)",
    )
    found.add_argument(
        "--var",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="variable of Terraform's root `service`, beside envs/*.tfvars; JSON or text",
    )
    return found


def run(
    options: argparse.Namespace, handler: Handler, open_: Open | None, out: Console, errors: Console
) -> int:
    """Runs a command; returns its exit code."""
    log = errors if options.json else out
    terminal = Terminal(out, log, options.json, options.yes)
    try:
        if options.env not in ENVIRONMENTS:  # argparse looks at no default
            there = f", which is {options.env!r}" if options.env else ""
            raise ReleaseError(
                f"which environment? --env {', '.join(ENVIRONMENTS)}, or KILN_ENV{there}"
            )
        result = handler(options, terminal, open_ or open_terraform)
    except (ReleaseError, TerraformError) as exc:
        return _failed(str(exc), exc.exit_code, options.json, out, errors)
    except KeyboardInterrupt:
        return _failed(_INTERRUPTED, INTERRUPTED, options.json, out, errors)
    if options.json:
        out.file.write(json.dumps(result.data, indent=2, ensure_ascii=False) + "\n")
    else:
        result.show(out)
    return result.exit_code


def _failed(text: str, exit_code: int, is_json: bool, out: Console, errors: Console) -> int:
    if is_json:
        data = {"error": text, "exit_code": exit_code}
        out.file.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    else:
        errors.print(f"[red]{escape(text)}[/]", highlight=False, soft_wrap=True)
    return exit_code


def open_terraform(options: argparse.Namespace, terminal: Terminal) -> Infrastructure:
    """The environment as Terraform has it."""
    folder = workspace_folder() / ".kiln" / "terraform"
    state = parse_state(options.state or str(folder / "state"))
    variables = dict(map(parse_variable, options.var))
    return TerraformService(options.env, state, folder / "work", variables, terminal.log)


# ---- What options mean ----


def settings_of(options: argparse.Namespace) -> Settings:
    """The environment's settings, or those of the file that the user names."""
    return read_settings(options.env, user_path(options.config) if options.config else None)


def aws_of(settings: Settings, outputs: ServiceOutputs | None) -> Aws:
    """The AWS session, in the environment's region once that is known."""
    return Aws(outputs.region if outputs else None, settings.invoke_timeout_s)


def golden_of(name: str | None) -> GoldenSet | None:
    """The bundled golden set, another file, or none."""
    if name == "none":
        return None
    try:
        return read_golden_set(user_path(name) if name else _GOLDEN_SET)
    except GoldenSetError as exc:
        raise ReleaseError(str(exc)) from exc


def image_of(text: str, aws: Aws, outputs: ServiceOutputs | None) -> Image:
    """An image from its URI, or from its digest in the environment's repository."""
    if not text.startswith("sha256:"):
        return parse_image(text)
    if outputs is None:
        raise ReleaseError(
            "nothing is deployed yet, so the repository is not known: expected "
            "REPOSITORY@sha256:…, as `bazel run //serve:push_image` prints it"
        )
    with explained("ECR"):
        found = aws.ecr.describe_repositories(repositoryNames=[outputs.ecr_repository])
    return parse_image(text, found["repositories"][0]["repositoryUri"])


def required(outputs: ServiceOutputs | None, env: str) -> ServiceOutputs:
    """The outputs; ReleaseError if no apply of the environment has completed."""
    if outputs is None:
        raise ReleaseError(
            f"{env} was never deployed, or not to the end, or its Terraform state is elsewhere "
            f"(--state): `bazel run //infra:deploy -- --env {env} --image …`"
        )
    return outputs


def open_context(options: argparse.Namespace, terminal: Terminal, open_: Open) -> ReleaseContext:
    """The environment, which must have been deployed."""
    settings = settings_of(options)
    outputs = required(open_(options, terminal).outputs(), options.env)
    aws = aws_of(settings, outputs)
    return ReleaseContext.open(options.env, settings, aws, outputs, terminal.log)


def entry(main: Callable[[Sequence[str], Console, Console], int]) -> NoReturn:
    """Runs a command as a process."""
    interrupt_by_sigterm()
    try:
        sys.exit(main(sys.argv[1:], terminal(140), terminal(140, stderr=True)))
    except Exception:
        traceback.print_exc()
        sys.exit(_OWN_MISTAKE)


def interrupt_by_sigterm() -> None:
    """Handles SIGTERM like Ctrl-C, so that a cancelled CI job leaves no lease behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
