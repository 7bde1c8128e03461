"""Runs Terraform's roots from a terminal or a script: ``bazel run //infra/terraform -- --help``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape

from common.command_line import command_parser
from common.files import workspace_folder
from common.terminal import terminal
from infra.terraform.program import Plan, TerraformError, show_plan
from infra.terraform.root import ENVIRONMENTS, ROOTS, Root, parse_variable
from infra.terraform.service import kept_variables
from infra.terraform.state import LocalState, State, parse_state

CHANGES = 10  # exit code of `plan`: there are changes
INTERRUPTED = 130  # exit code after Ctrl-C, as in shells

_ACCOUNT_ROOTS = ("state", "registry", "github")
_DESCRIPTION = """\
Terraform for one root of infra/terraform/roots.

  plan registry       what would change
  apply registry      plan, ask, apply
  destroy registry    plan, ask, delete
  output registry     where things are
  validate registry   whether the sources are right; needs no AWS
"""
_EPILOGUE = """\
examples:
  bazel run //infra/terraform -- apply state
  bazel run //infra/terraform -- apply registry --state s3://kiln-123456789012-eu-central-1-state
  bazel run //infra/terraform -- plan github --var repository=owner/name
  bazel run //infra/terraform -- apply observability --env dev --var enabled=true --var vpc_id=vpc-1

The root `service` belongs to the release manager: bazel run //infra:plan, :deploy, :destroy.
exit codes: 0 done or nothing to do, 1 Terraform or AWS refused, 2 bad input, 10 plan has changes,
130 interrupted
"""


def main(arguments: Sequence[str], out: Console, errors: Console) -> int:
    """Runs one command; returns its exit code."""
    options = _parser().parse_args(arguments)
    log = errors if options.json or options.command == "output" else out
    try:
        code, data = _run(options, log)
    except TerraformError as exc:
        code, data = exc.exit_code, {"error": str(exc), "exit_code": exc.exit_code}
        if not options.json:
            errors.print(f"[red]{escape(str(exc))}[/]", highlight=False, soft_wrap=True)
    except KeyboardInterrupt:
        errors.print("Interrupted: completed changes are in the state; plan again to continue.")
        return INTERRUPTED
    if options.json or options.command == "output":
        out.file.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    return code


def _run(options: argparse.Namespace, log: Console) -> tuple[int, dict[str, Any]]:
    root = _root(options, log)
    root.init()
    match options.command:
        case "validate":
            root.validate()
            log.print(f"{escape(root.title)} is valid")
            return 0, {"valid": True}
        case "output":
            return 0, root.outputs()
    plan = root.plan(destroy=options.command == "destroy")
    show_plan(plan, root.title, log)
    if options.command == "plan":
        return (CHANGES if plan.changed else 0), _data(plan)
    if plan.changed:
        _confirm(options, f"{options.command.capitalize()} {root.title}?", log)
        root.apply(plan)
    return 0, _data(plan) | {"outputs": root.outputs()}


def _root(options: argparse.Namespace, log: Console) -> Root:
    folder = workspace_folder() / ".kiln" / "terraform"
    state: State = parse_state(options.state) if options.state else LocalState(folder / "state")
    default = "account" if options.root in _ACCOUNT_ROOTS else os.environ.get("KILN_ENV")
    environment = options.env or default
    if not environment:
        raise TerraformError(f"which environment? --env {', '.join(ENVIRONMENTS[1:])}")
    kept = kept_variables(environment, state) if options.root == "service" else {}
    return Root.open(
        options.root,
        environment,
        state=state,
        work=folder / "work",
        variables=dict(map(parse_variable, options.var)),
        console=log,
        environ=kept | dict(os.environ),
    )


def _confirm(options: argparse.Namespace, question: str, log: Console) -> None:
    if options.yes:
        return
    if not sys.stdin.isatty():
        raise TerraformError(f"{question} not a terminal: confirm with --yes")
    if log.input(f"[bold]{escape(question)}[/] [y/N] ").strip().lower() not in ("y", "yes"):
        raise TerraformError("not confirmed: nothing was changed")


def _data(plan: Plan) -> dict[str, Any]:
    return {
        "changed": plan.changed,
        "counts": plan.counts,
        "changes": [asdict(change) for change in plan.changes],
    }


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("//infra/terraform", _DESCRIPTION, _EPILOGUE)
    parser.add_argument("command", choices=("plan", "apply", "destroy", "output", "validate"))
    parser.add_argument("root", choices=ROOTS)
    parser.add_argument(
        "--env",
        choices=ENVIRONMENTS,
        help="environment (default: `account` for state, registry and github, else KILN_ENV)",
    )
    parser.add_argument(
        "--state",
        metavar="WHERE",
        default=os.environ.get("KILN_TERRAFORM_STATE"),
        help="s3://bucket/prefix, or a folder (default: KILN_TERRAFORM_STATE, else "
        ".kiln/terraform/state of the workspace)",
    )
    parser.add_argument(
        "--var", metavar="NAME=VALUE", action="append", default=[], help="beside envs/*.tfvars"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="one JSON document as the result")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal(140), terminal(140, stderr=True)))
