"""Terraform's outputs for an environment, and applying it with a new image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from rich.console import Console

from infra.terraform.outputs import (
    ServiceOutputs,
    are_complete,
    parse_service_outputs,
    read_outputs,
)
from infra.terraform.plan import Plan
from infra.terraform.root import Root
from infra.terraform.state import State

# Of the right form, for destruction, which asks for an image and reads none.
_NO_IMAGE = f"none.invalid/none@sha256:{'0' * 64}"


class Infrastructure(Protocol):
    """The service of one environment. Every method raises TerraformError if it fails."""

    def outputs(self) -> ServiceOutputs | None:
        """None if it was never applied to the end."""

    def plan(self, image_uri: str) -> Plan:
        """What `apply` would change."""

    def apply(self, image_uri: str) -> ServiceOutputs: ...

    def plan_destruction(self) -> Plan: ...

    def destroy(self) -> None: ...


class TerraformService:
    """The service as made by Terraform's root `service`."""

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
        )
        root.init()
        return root
