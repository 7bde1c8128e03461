"""A function: the built image under Lambda's Runtime API, as a process of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from infra.twin.cloud.runtime_api import RuntimeApi, runtime_api
from infra.twin.image.container import Container, Root, running


@dataclass
class Function:
    api: RuntimeApi
    container: Container


@contextmanager
def function(
    root: Root,
    environment: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
    **options: Any,
) -> Iterator[Function]:
    """One execution environment; an argument names another handler."""
    with runtime_api() as api:
        variables = {
            "AWS_LAMBDA_RUNTIME_API": api.address,
            "AWS_LAMBDA_FUNCTION_NAME": "kiln",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769",
            "AWS_REGION": "eu-central-1",
            "LAMBDA_TASK_ROOT": "/var/task",
            **(environment or {}),
        }
        with running(root, variables, arguments, first=False, **options) as container:
            yield Function(api, container)
