"""The root `service` of one environment: its outputs, and applying it with another image."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from infra.terraform.program import Plan, TerraformError
from infra.terraform.root import Root
from infra.terraform.state import State

_FORMAT = 4  # version of the state format since Terraform 0.12
_TRIES = 5  # Terraform may be writing a file at the moment
_PAUSE_S = 0.2


def read_outputs(root: str, environment: str, state: State) -> dict[str, Any]:
    """Values by name; empty before the first apply.

    Raises:
        TerraformError: the state cannot be read, or is of another format.
    """
    for left in reversed(range(_TRIES)):
        text = state.read(root, environment)
        try:
            return _values(json.loads(text)) if text else {}
        except ValueError as exc:
            if not left:
                place = state.place(root, environment)
                raise TerraformError(f"{place} is not a Terraform state: {exc}") from exc
        time.sleep(_PAUSE_S)
    raise AssertionError


def _values(document: Any) -> dict[str, Any]:
    if not isinstance(document, dict) or document.get("version") != _FORMAT:
        raise ValueError(f"expected a document with version {_FORMAT}")
    return {name: output["value"] for name, output in document.get("outputs", {}).items()}


@dataclass(frozen=True)
class ServiceOutputs:
    """Outputs of infra/terraform/roots/service, by their names."""

    function_name: str
    alias_name: str
    api_url: str  # without a trailing slash; empty without an API
    function_url: str  # likewise
    ledger_bucket: str
    ledger_prefix: str  # without leading or trailing slashes
    ecr_repository: str  # name, without the registry's host
    sns_topic_arn: str
    alarm_names: tuple[str, ...]
    page_alarm_names: tuple[str, ...]  # those that roll a release back
    region: str

    @property
    def drift_alarm(self) -> str | None:
        """The alarm on drift of live images from the reference."""
        return next((name for name in self.page_alarm_names if name.endswith("-drift")), None)


_NAMES = [field.name for field in fields(ServiceOutputs)]


def are_complete(outputs: Mapping[str, Any]) -> bool:
    """Whether an apply completed: Terraform also keeps the outputs of a failed one."""
    return all(name in outputs for name in _NAMES)


def parse_service_outputs(outputs: Mapping[str, Any]) -> ServiceOutputs:
    """Parses the outputs.

    Raises:
        TerraformError: the root was not applied, or by an older version of this code.
    """
    if missing := [name for name in _NAMES if name not in outputs]:
        raise TerraformError(
            f"the root `service` has no output {', '.join(missing)}: apply it first"
        )
    values = {name: outputs[name] for name in _NAMES}
    alarms = {name: tuple(sorted(outputs[name])) for name in ("alarm_names", "page_alarm_names")}
    return ServiceOutputs(**values | alarms)


def kept_variables(environment: str, state: State) -> dict[str, str]:
    """Variables of the process by which Terraform keeps what an earlier apply was given.

    A release by CI names the watcher's image; a plan, or a deploy by hand, that names none would
    take the watcher away. Terraform reads these before envs/*.tfvars and --var, which so decide.

    Raises:
        TerraformError: the state cannot be read.
    """
    image = read_outputs("service", environment, state).get("watcher_image_uri")
    return {"TF_VAR_watcher_image_uri": str(image)} if image else {}


# A valid placeholder for destruction, which requires the variable and ignores its value.
_NO_IMAGE = f"none.invalid/none@sha256:{'0' * 64}"


class Infrastructure(Protocol):
    """The service of one environment. Every method raises TerraformError on failure."""

    def outputs(self) -> ServiceOutputs | None:
        """The outputs; None if no apply has completed."""

    def stateless_name(self) -> str | None:
        """The function's name, if there is no state that could hold it."""

    def plan(self, image_uri: str) -> Plan:
        """The changes that `apply` would make."""

    def apply(self, image_uri: str) -> ServiceOutputs: ...

    def plan_destruction(self) -> Plan: ...

    def destroy(self) -> None: ...


class TerraformService:
    """The service as managed by Terraform's root `service`."""

    def __init__(
        self,
        env: str,
        state: State,
        work: Path,
        variables: Mapping[str, object],
        console: Console,
    ) -> None:
        self._env, self._state, self._work = env, state, work
        self._variables, self._console = dict(variables), console

    def outputs(self) -> ServiceOutputs | None:
        found = read_outputs("service", self._env, self._state)
        return parse_service_outputs(found) if are_complete(found) else None

    def stateless_name(self) -> str | None:
        if self._state.read("service", self._env) is not None:
            return None
        return f"{self._variables.get('project', 'kiln')}-{self._env}"  # as in main.tf

    def plan(self, image_uri: str) -> Plan:
        return self._root(image_uri).plan()

    def apply(self, image_uri: str) -> ServiceOutputs:
        root = self._root(image_uri)
        plan = root.plan()
        if plan.changed:
            root.apply(plan)
        return parse_service_outputs(root.outputs())

    def plan_destruction(self) -> Plan:
        return self._root(_NO_IMAGE).plan(destroy=True)

    def destroy(self) -> None:
        self._root(_NO_IMAGE).destroy()

    def _root(self, image_uri: str) -> Root:
        root = Root.open(
            "service",
            self._env,
            state=self._state,
            work=self._work,
            variables={**self._variables, "image_uri": image_uri},
            console=self._console,
            environ=kept_variables(self._env, self._state) | dict(os.environ),
        )
        root.init()
        return root
