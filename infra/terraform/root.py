"""One Terraform root in one environment.

    root = Root.open("service", "dev", state=LocalState(folder), work=work, variables={...})
    root.init()
    plan = root.plan()
    if plan.changed:
        root.apply(plan)
    outputs = parse_service_outputs(root.outputs())

If this process is killed, Terraform continues until it is done; the next run waits for the state's
lock.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from common.aws import own_s3_endpoint
from common.terminal import Progress
from infra.terraform.program import (
    CHANGED,
    NO_MIRROR,
    Change,
    Event,
    Installation,
    OnEvent,
    Plan,
    Process,
    TerraformError,
    TerraformFailed,
    find_installation,
    following,
    parse_change,
)
from infra.terraform.state import State

SOURCES = Path(__file__).absolute().parent
ROOTS = ("state", "registry", "github", "service", "observability")
ENVIRONMENTS = ("account", "dev", "staging", "prod")
_SUFFIXES = (".tf", ".tf.json", ".tftest.hcl", ".tftpl")
_ENDPOINT_OVERRIDE = "endpoint_override.tf.json"
_FUNCTION = "function"  # folder of a module's Lambda function
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # the earliest time that a ZIP file can hold


def copy_root(root: str, work: Path, environ: Mapping[str, str]) -> Path:
    """Copies the current root and modules to `work`; returns the root's folder.

    Terraform's own files in the root's folder are kept.
    """
    folder = work / "roots" / root
    _clear(folder)
    shutil.rmtree(work / "modules", ignore_errors=True)
    _copy(SOURCES / "roots" / root, folder)
    _copy(SOURCES / "modules", work / "modules")
    if own_s3_endpoint(environ):
        override = {"provider": {"aws": {"s3_use_path_style": True}}}
        (folder / _ENDPOINT_OVERRIDE).write_text(json.dumps(override, indent=2) + "\n")
    return folder


def variable_files(root: str, environment: str) -> list[Path]:
    """Files of `envs/` that apply to this root, from general to specific."""
    names = (f"{environment}.tfvars", f"{environment}.{root}.tfvars")
    return [path for name in names if (path := SOURCES / "envs" / name).is_file()]


def parse_variable(text: str) -> tuple[str, object]:
    """Name and value of ``name=value``; the value is parsed as JSON if possible, else it is text.

    Raises:
        TerraformError: it has no name or no equals sign.
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise TerraformError(f"expected --var NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


@contextmanager
def alone(work: Path) -> Iterator[None]:
    """Locks the folder against other processes.

    Raises:
        TerraformError: another process uses the folder.
    """
    work.mkdir(parents=True, exist_ok=True)
    with (work / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TerraformError(
                f"another process runs Terraform in {work}: wait until it is done"
            ) from None
        try:
            yield
        finally:
            # Closing is not enough: a child that another thread forks now inherits the file.
            fcntl.flock(lock, fcntl.LOCK_UN)


def _clear(folder: Path) -> None:
    """Removes old sources: Terraform reads every file of a folder."""
    for path in folder.glob("*"):
        if path.name.endswith(_SUFFIXES):
            path.unlink()


def _copy(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        place = target / path.relative_to(source)
        if path.name.endswith(_SUFFIXES):
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
        elif path.name == _FUNCTION and path.is_dir():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.with_suffix(".zip").write_bytes(package(path))


def package(folder: Path) -> bytes:
    """The ZIP file of a Lambda function; equal sources give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.rglob("*.py")):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _EARLIEST)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    return buffer.getvalue()


_VARIABLES = "given.tfvars.json"
_LOCK_TIMEOUT = "60s"  # longer than what remains of a run whose parent was killed


@dataclass(frozen=True)
class Root:
    """A root in an environment, in its own work folder, with its state elsewhere."""

    name: str
    environment: str
    state: State
    variables: Mapping[str, object]  # in addition to envs/, and overridden by it
    work: Path
    process: Process
    console: Console

    @classmethod
    def open(
        cls,
        name: str,
        environment: str,
        *,
        state: State,
        work: Path,
        variables: Mapping[str, object] | None = None,
        console: Console | None = None,
        environ: Mapping[str, str] = os.environ,
        installation: Installation | None = None,
    ) -> Root:
        """Copies the sources to `work`/environment/name; sends no request to AWS yet.

        Raises:
            TerraformError: no such root or environment, or Terraform is not installed.
        """
        if name not in ROOTS:
            raise TerraformError(f"no root {name!r}: there are {', '.join(ROOTS)}")
        if environment not in ENVIRONMENTS:
            raise TerraformError(
                f"no environment {environment!r}: there are {', '.join(ENVIRONMENTS)}"
            )
        installed = installation or find_installation(environ)
        place = work.absolute() / environment / name
        with alone(place):
            folder = copy_root(name, place, environ)
        return cls(
            name,
            environment,
            state,
            dict(variables or {}),
            place,
            Process(installed, folder),
            console or Console(stderr=True),
        )

    @property
    def title(self) -> str:
        """The root's name in messages, such as ``service of dev``."""
        return f"{self.name} of {self.environment}"

    def init(self) -> None:
        """Initialises backend, modules and provider, keeping what is there.

        Raises:
            TerraformFailed: the backend or the provider is unavailable.
        """
        mirror = self.process.installation.mirror
        options = self.state.options(self.name, self.environment, self.process.folder)
        if mirror:
            options.append(f"-plugin-dir={mirror}")
        try:
            with self._running("preparing") as follow:
                self.process.stream("init", "-json", "-reconfigure", *options, on_event=follow)
        except TerraformFailed as exc:
            if mirror or "provider packages" not in str(exc):
                raise
            raise TerraformFailed(f"{exc}\n{NO_MIRROR}") from exc

    def plan(self, *, destroy: bool = False) -> Plan:
        """Compares sources, state and AWS.

        Raises:
            TerraformFailed: a variable is invalid, AWS denies reading, or the state is locked.
        """
        found: list[Change | None] = []
        file = self.process.folder / ("destroy.tfplan" if destroy else "apply.tfplan")
        options = [f"-out={file}", f"-lock-timeout={_LOCK_TIMEOUT}", *self._variable_options()]
        options += ["-destroy"] if destroy else []
        with self._running("planning") as follow:

            def on_event(event: Event) -> None:
                if event.get("type") == "planned_change":
                    found.append(parse_change(event))
                follow(event)

            code = self.process.stream(
                "plan",
                "-json",
                "-detailed-exitcode",
                *options,
                on_event=on_event,
                expected=(0, CHANGED),
            )
        return Plan(file, code == CHANGED, tuple(filter(None, found)), destroy)

    def apply(self, plan: Plan) -> None:
        """Applies the plan.

        Raises:
            TerraformFailed: AWS refused a change, the plan is stale, or the state is locked.
                Completed changes are in the state; a new plan continues from there.
        """
        options = (f"-lock-timeout={_LOCK_TIMEOUT}", str(plan.file))
        with self._running("destroying" if plan.destroys else "applying") as follow:
            self.process.stream("apply", "-json", *options, on_event=follow)
        plan.file.unlink(missing_ok=True)  # it contains variable values and is no longer needed

    def destroy(self) -> Plan:
        """Destroys everything in the state; returns what that was."""
        plan = self.plan(destroy=True)
        if plan.changed:
            self.apply(plan)
        return plan

    def outputs(self) -> dict[str, Any]:
        """Values of the outputs; empty before the first apply."""
        answer: dict[str, dict[str, Any]] = json.loads(self._text("reading", "output", "-json"))
        return {name: output["value"] for name, output in answer.items()}

    def show(self, plan: Plan | None = None) -> dict[str, Any]:
        """A plan, or the state, with all attributes, as `terraform show -json` prints it."""
        files = [str(plan.file)] if plan else []
        shown: dict[str, Any] = json.loads(self._text("reading", "show", "-json", *files))
        return shown

    def validate(self) -> None:
        """Validates the sources; needs `init`, but neither AWS nor variables.

        Raises:
            TerraformFailed: the sources are invalid; the message says where.
        """
        self._text("validating", "validate", "-no-color")

    def _variable_options(self) -> list[str]:
        given = self.process.folder / _VARIABLES
        given.write_text(json.dumps(dict(self.variables), indent=2) + "\n")
        files = [*variable_files(self.name, self.environment), given]
        return [f"-var-file={file}" for file in files]

    def _text(self, what: str, *arguments: str) -> str:
        with alone(self.work), Progress(f"{what} {self.title}", console=self.console):
            return self.process.text(*arguments)

    @contextmanager
    def _running(self, what: str) -> Iterator[OnEvent]:
        with alone(self.work), following(self.console, f"{what} {self.title}") as follow:
            yield follow
