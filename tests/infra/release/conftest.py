"""A cloud on loopback and a function for each test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import create_loader

from infra.release.aws.clients import Aws
from infra.twin.cloud.cloud import Cloud
from tests.infra.release.bare import BUCKET
from tests.infra.release.world import World
from tests.infra.twin.cloud.functions import Functions, client


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with in_a_cloud(tmp_path, monkeypatch, keep_idle_s=60) as found:
        yield found


@pytest.fixture
def short_lived_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """For many functions: those that are done with make room."""
    with in_a_cloud(tmp_path, monkeypatch, keep_idle_s=1) as found:
        yield found


# Each session reads the descriptions of its services again, which is most of what a client takes.
_shared_loader = cache(create_loader)


def cache_clients(make: Callable[..., Any]) -> Callable[..., Any]:
    """Several commands of a test share their clients: making all of them takes a second."""
    made: dict[str, Any] = {}

    def client(aws: Aws, service: str, **options: Any) -> Any:
        key = f"{service} {aws.region} {sorted(options.items(), key=str)}"
        if key not in made:
            made[key] = make(aws, service, **options)
        return made[key]

    return client


@contextmanager
def in_a_cloud(
    folder: Path, monkeypatch: pytest.MonkeyPatch, keep_idle_s: float
) -> Iterator[World]:
    """A function to release into, and nothing of AWS but that cloud."""
    functions = Functions(folder)
    with Cloud(folder, functions.launch, keep_idle_s=keep_idle_s) as cloud:
        location = {"LocationConstraint": cloud.region}
        client(cloud, "s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=location)
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("botocore.session.create_loader", _shared_loader)
        monkeypatch.setattr(Aws, "_client", cache_clients(Aws._client))
        yield World(cloud, functions, folder)
