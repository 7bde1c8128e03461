"""What the root `service` tells whoever releases into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from infra.terraform.errors import TerraformError


@dataclass(frozen=True)
class ServiceOutputs:
    """Outputs of infra/terraform/roots/service, by their names."""

    function_name: str
    alias_name: str
    api_url: str  # without a slash at the end; empty where there is no API
    function_url: str  # likewise
    ledger_bucket: str
    ledger_prefix: str  # without slashes around it
    ecr_repository: str  # name, without the registry's host
    sns_topic_arn: str
    alarm_names: tuple[str, ...]
    page_alarm_names: tuple[str, ...]  # those of them that undo a release
    region: str

    @property
    def drift_alarm(self) -> str | None:
        """The one that compares live images with those that the model was tested on."""
        return next((name for name in self.page_alarm_names if name.endswith("-drift")), None)


_NAMES = [field.name for field in fields(ServiceOutputs)]


def are_complete(outputs: Mapping[str, Any]) -> bool:
    """Whether an apply went to its end: Terraform keeps those that one which failed came to."""
    return all(name in outputs for name in _NAMES)


def parse_service_outputs(outputs: Mapping[str, Any]) -> ServiceOutputs:
    """Raises:
    TerraformError: the root was not applied, or by an older version of this code.
    """
    if missing := [name for name in _NAMES if name not in outputs]:
        raise TerraformError(
            f"the root `service` has no output {', '.join(missing)}: apply it first"
        )
    values = {name: outputs[name] for name in _NAMES}
    alarms = {name: tuple(sorted(outputs[name])) for name in ("alarm_names", "page_alarm_names")}
    return ServiceOutputs(**values | alarms)
