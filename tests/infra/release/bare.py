"""What Terraform would have made of the root `service`, for tests of what comes after it.

tests/infra/release/test_terraform.py does it with Terraform.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3

from infra.terraform.program import Plan
from infra.terraform.service import ServiceOutputs

BUCKET = "ledgers"


class BareInfrastructure:
    """A function; applying an image updates its code, as Terraform does if the image is another."""

    def __init__(self, name: str) -> None:
        """Region, endpoint and credentials are the environment's."""
        self.name, self.functions = name, boto3.client("lambda")
        self._region = str(self.functions.meta.region_name)

    def outputs(self) -> ServiceOutputs | None:
        return ServiceOutputs(
            function_name=self.name,
            alias_name="live",
            api_url="",
            function_url="",
            ledger_bucket=BUCKET,
            ledger_prefix=self.name,
            ecr_repository="kiln",
            sns_topic_arn=f"arn:aws:sns:{self._region}:123456789012:{self.name}",
            alarm_names=tuple(f"{self.name}-{what}" for what in ("drift", "errors", "throttles")),
            page_alarm_names=tuple(f"{self.name}-{what}" for what in ("drift", "errors")),
            region=self._region,
        )

    def stateless_name(self) -> str | None:
        return None

    def plan(self, image_uri: str) -> Plan:
        found: Any = self.functions.get_function(FunctionName=self.name)["Code"]["ImageUri"]
        return Plan(Path("none"), found != image_uri, ())

    def apply(self, image_uri: str) -> ServiceOutputs:
        if self.plan(image_uri).changed:
            self.functions.update_function_code(FunctionName=self.name, ImageUri=image_uri)
        outputs = self.outputs()
        assert outputs
        return outputs

    def plan_destruction(self) -> Plan:
        return Plan(Path("none"), True, (), destroys=True)

    def destroy(self) -> None:
        self.functions.delete_function(FunctionName=self.name)
