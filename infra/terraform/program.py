"""Terraform as a program: where it is on this machine, and what it says of plans and progress.

It and its AWS provider are looked for, and never downloaded. Its output is read in the form for
machines, and shown.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.terminal import Progress


class TerraformError(Exception):
    """An error; the message says what happened and what to do."""

    exit_code = 2


class TerraformMissing(TerraformError):
    """Terraform is not installed on this machine."""


class TerraformFailed(TerraformError):
    """Terraform failed; the message has its output."""

    exit_code = 1


class StateLocked(TerraformFailed):
    """Another run holds the state's lock; the message says who, since when, and what to do."""


PROGRAM_VARIABLE = "KILN_TERRAFORM"
PLUGINS_VARIABLE = "KILN_TERRAFORM_PLUGINS"
INSTALL = "https://developer.hashicorp.com/terraform/install (1.11 or newer)"
NO_MIRROR = (
    "No mirror of providers was found here. Where the registry is out of reach, fill one "
    f"with `terraform providers mirror FOLDER` elsewhere, and name it in {PLUGINS_VARIABLE}"
)
_CLI_CONFIG = "TF_CLI_CONFIG_FILE"
_PROVIDER = "registry.terraform.io/hashicorp/aws"
_PLACES = (
    "~/.terraform.d",
    "/opt",
    "/usr/share/terraform",
    "/usr/local/share/terraform",
    "/usr/lib/terraform",
    "/usr/local/lib",
    "/var/lib/terraform",
)
_DEPTHS = ("", "*/", "*/*/")  # mirrors are searched for below these
# Terraform and its provider read 1,500 schemas for every command. Collecting garbage at five times
# the live heap instead of twice saves a fifth of the CPU time and takes 5 % more memory.
_GARBAGE_COLLECTION = "400"


@dataclass(frozen=True)
class Installation:
    """A usable Terraform installation."""

    program: Path
    mirror: Path | None  # folder of providers; None: `init` uses the registry
    environment: Mapping[str, str]


def find_installation(environ: Mapping[str, str] = os.environ) -> Installation:
    """Finds Terraform and its provider mirror.

    Raises:
        TerraformError: a variable names a missing file, or Terraform is not installed.
    """
    variables = _environment(environ)
    return Installation(_program(environ), _mirror(environ, variables), variables)


def find_mirrors(places: tuple[str, ...] = _PLACES) -> list[Path]:
    """Folders below `places` that `terraform init -plugin-dir` can use for the AWS provider."""
    return list(dict.fromkeys(mirror for place in places for mirror in _below(place)))


def _program(environ: Mapping[str, str]) -> Path:
    named = environ.get(PROGRAM_VARIABLE, "")
    found = shutil.which(named or "terraform", path=environ.get("PATH"))
    if not found and named:
        raise TerraformMissing(f"{PROGRAM_VARIABLE} is {named!r}, which is not a program")
    if not found:
        raise TerraformMissing(
            f"terraform is not on PATH: install it from {INSTALL}, or name it in {PROGRAM_VARIABLE}"
        )
    return Path(found).absolute()


def _mirror(environ: Mapping[str, str], variables: Mapping[str, str]) -> Path | None:
    if named := environ.get(PLUGINS_VARIABLE, ""):
        mirror = Path(named).expanduser()
        if not _holds_provider(mirror):
            raise TerraformError(
                f"{PLUGINS_VARIABLE} is {named!r}, which has no {_PROVIDER}/…/"
                f"terraform-provider-aws* for {_target()}: fill it with "
                "`terraform providers mirror FOLDER`, or unset it to ask the registry"
            )
        return mirror.absolute()
    if _CLI_CONFIG in variables:
        return None  # the author of that file decides where providers come from
    return next(iter(find_mirrors()), None)


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Without a nonexistent configuration file, and without prompts."""
    variables = {"GOGC": _GARBAGE_COLLECTION, **environ}
    if not Path(variables.get(_CLI_CONFIG, "")).is_file():
        variables.pop(_CLI_CONFIG, None)
    quiet = {"TF_IN_AUTOMATION": "1", "TF_INPUT": "0", "CHECKPOINT_DISABLE": "1"}
    return variables | quiet


def _below(place: str) -> Iterator[Path]:
    base = Path(place).expanduser()
    for depth in _DEPTHS:
        for provider in sorted(base.glob(depth + _PROVIDER)):
            mirror = provider.parents[2]
            if _holds_provider(mirror):
                yield mirror


def _holds_provider(mirror: Path) -> bool:
    folder = mirror / _PROVIDER
    unpacked = folder.glob(f"*/{_target()}/terraform-provider-aws*")
    packed = folder.glob(f"terraform-provider-aws_*_{_target()}.zip")
    return any(unpacked) or any(packed)


def _target() -> str:
    machine = platform.machine().lower()
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    return f"{platform.system().lower()}_{names.get(machine, machine)}"


Action = Literal["create", "update", "replace", "delete", "move", "import", "remove"]
_ACTIONS = frozenset(get_args(Action))


@dataclass(frozen=True)
class Change:
    """A planned change of one resource."""

    address: str  # module.alarms.aws_sns_topic.this
    type: str  # aws_sns_topic
    action: Action
    reason: str = ""  # reason of a replacement or deletion, if Terraform gives one


@dataclass(frozen=True)
class Plan:
    """A saved plan: exactly this is applied, or Terraform refuses it as stale."""

    file: Path
    changed: bool  # also true if only an output changes
    changes: tuple[Change, ...]
    destroys: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """Resources by action; a replacement is one."""
        actions = [change.action for change in self.changes]
        return {action: actions.count(action) for action in sorted(set(actions))}


def parse_change(event: Mapping[str, Any]) -> Change | None:
    """The change in a line of type `planned_change`; None for no-ops and reads."""
    change: Mapping[str, Any] = event["change"]
    if change["action"] not in _ACTIONS:
        return None
    resource: Mapping[str, Any] = change["resource"]
    return Change(
        str(resource["addr"]),
        str(resource["resource_type"]),
        cast(Action, change["action"]),
        str(change.get("reason", "")).replace("_", " "),
    )


Event = Mapping[str, Any]
OnEvent = Callable[[Event], None]
CHANGED = 2  # exit code of `plan -detailed-exitcode`


@dataclass(frozen=True)
class Process:
    """Terraform in one folder."""

    installation: Installation
    folder: Path

    def stream(self, *arguments: str, on_event: OnEvent, expected: Sequence[int] = (0,)) -> int:
        """Runs a command with `-json` and passes on each line; returns the exit code.

        Raises:
            TerraformFailed: unexpected exit code; the message has Terraform's errors.
        """
        errors: list[Event] = []
        other: list[str] = []
        command = [str(self.installation.program), *arguments]
        with subprocess.Popen(
            command,
            cwd=self.folder,
            env=dict(self.installation.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout
            for line in process.stdout:
                event = _parse(line)
                if event is None:
                    other.append(line.rstrip())
                    continue
                if event.get("type") == "diagnostic" and event["@level"] == "error":
                    errors.append(event["diagnostic"])
                on_event(event)
        code = process.returncode
        if code not in expected:
            raise _failure(arguments[0], self.folder, errors, other)
        return code

    def text(self, *arguments: str) -> str:
        """The output of a command.

        Raises:
            TerraformFailed: it failed.
        """
        done = subprocess.run(
            [str(self.installation.program), *arguments],
            cwd=self.folder,
            env=dict(self.installation.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise _failure(arguments[0], self.folder, [], (done.stderr or done.stdout).splitlines())
        return done.stdout


def _parse(line: str) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "@level" in event else None


def _failure(
    command: str, folder: Path, errors: Sequence[Event], other: Sequence[str]
) -> TerraformFailed:
    words = [_words(error) for error in errors] or [line for line in other if line.strip()]
    text = "\n".join(dict.fromkeys(words)) or "no reason given"
    if "Error acquiring the state lock" in text:
        return StateLocked(
            f"the state is locked by another run:\n{text}\n"
            "Wait for it. If that run is dead (ask first), free the lock: "
            f"cd {folder} && terraform force-unlock ID"
        )
    if "UnreservedConcurrentExecution" in text:
        text += (
            "\nLambda keeps a part of the account's concurrent executions unreserved, and a new "
            "account has 10 in all. Ask AWS for more (Service Quotas: Lambda, Concurrent "
            "executions), or reserve none for now: --var reserved_concurrency=-1"
        )
    return TerraformFailed(f"terraform {command} in {folder.name}:\n{text}")


def _words(error: Event) -> str:
    place = ""
    if found := error.get("range"):
        place = f" ({found['filename']}, line {found['start']['line']})"
    about = f"{error['address']}: " if error.get("address") else ""
    detail = str(error.get("detail", "")).strip()
    return f"{about}{error['summary']}{place}" + (f"\n  {detail}" if detail else "")


_MARKS = {
    "create": "[green]+[/]",
    "update": "[yellow]~[/]",
    "replace": "[red]±[/]",
    "delete": "[red]-[/]",
    "move": "[cyan]>[/]",
    "import": "[cyan]<[/]",
    "remove": "[yellow].[/]",
}
# About mirrored providers: the lock file in question is the work folder's own.
_EXPECTED = {"Incomplete lock file information for providers"}
_WORDS = {"create": "creating", "update": "changing", "delete": "deleting", "read": "reading"}


@contextmanager
def following(console: Console, title: str) -> Iterator[OnEvent]:
    """Prints a line per finished resource, and what is in progress."""
    if not console.is_terminal:
        console.print(f"{title} ...", highlight=False, markup=False, soft_wrap=True)
    with Progress(title, console=console) as progress:
        yield _Follower(console, lambda text: progress.update(detail=text))


def show_plan(plan: Plan, title: str, console: Console) -> None:
    """Prints every change, then the number of each kind."""
    if not plan.changed:
        console.print(f"{escape(title)}: [green]no changes[/]")
        return
    table = Table(title=escape(title), title_justify="left")
    for name in ("", "action", "resource"):
        table.add_column(name, overflow="fold")
    for change in sorted(plan.changes, key=lambda change: change.address):
        why = f" [dim]{escape(change.reason)}[/]" if change.reason else ""
        table.add_row(_MARKS[change.action], change.action, escape(change.address) + why)
    if plan.changes:
        console.print(table)
    counts = ", ".join(f"{number} to {action}" for action, number in plan.counts.items())
    console.print(counts or "only outputs change", highlight=False)


class _Follower:
    """Prints Terraform's JSON events as lines."""

    def __init__(self, console: Console, say: Callable[[str], None]) -> None:
        self._console, self._say = console, say
        self._busy: dict[str, str] = {}

    def __call__(self, event: Event) -> None:
        kind = event.get("type", "")
        if _is_data(event):
            return
        if kind == "diagnostic" and event["@level"] == "warn":
            if event["diagnostic"]["summary"] not in _EXPECTED:
                self._warn(event["diagnostic"])
        elif kind in ("apply_start", "refresh_start"):
            hook: Mapping[str, Any] = event["hook"]
            address = str(hook["resource"]["addr"])
            self._busy[address] = _WORDS.get(str(hook.get("action", "read")), "working on")
            self._say_busy()
        elif kind in ("apply_complete", "apply_errored", "refresh_complete"):
            self._done(kind, event["hook"])

    def _done(self, kind: str, hook: Mapping[str, Any]) -> None:
        address = str(hook["resource"]["addr"])
        self._busy.pop(address, None)
        self._say_busy()
        if kind == "apply_complete":
            mark = _MARKS.get(str(hook["action"]), " ")
            text = f"  {mark} {escape(address)}  [dim]{hook['elapsed_seconds']} s[/]"
            self._console.print(text, highlight=False, soft_wrap=True)
        elif kind == "apply_errored":
            self._console.print(f"  [red]✗[/] {escape(address)}", highlight=False, soft_wrap=True)

    def _say_busy(self) -> None:
        address, word = next(reversed(self._busy.items()), ("", "waiting"))
        more = f" and {len(self._busy) - 1} more" if len(self._busy) > 1 else ""
        self._say(f"{word} {address}{more}".strip())

    def _warn(self, diagnostic: Mapping[str, Any]) -> None:
        text = f"{diagnostic['summary']}: {diagnostic.get('detail', '')}".strip()
        self._console.print(f"[yellow]warning[/] {escape(text)}", highlight=False, soft_wrap=True)


def _is_data(event: Event) -> bool:
    """Data sources are only read, so they are not shown."""
    resource: Mapping[str, Any] = event.get("hook", {}).get("resource", {})
    return str(resource.get("resource", "")).startswith("data.")
