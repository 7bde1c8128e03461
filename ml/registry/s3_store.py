"""Object storage of the registry in S3, by conditional writes.

boto3 and not fsspec: the one write that everything rests on, If-None-Match, has to be told apart
from a repeated request whose first answer was lost.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from ml.registry.store import Stored, StoreError

_MISSING = {"NoSuchKey", "404"}
_EXISTS = {"PreconditionFailed", "412"}
_BUSY = {"ConditionalRequestConflict", "409"}  # another writer is at this very key: ask again
_BUSY_TRIES = 20


class S3Store:
    """Endpoint, region and credentials come from where boto3 finds them; AWS_ENDPOINT_URL names
    another store than Amazon's."""

    def __init__(self, bucket: str, prefix: str) -> None:
        """Nothing is asked of the store yet."""
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        own_endpoint = any(
            name in os.environ for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
        )
        options: dict[str, Any] = {"retries": {"mode": "standard"}}
        if own_endpoint:  # such stores rarely have a host name for every bucket
            options["s3"] = {"addressing_style": "path"}
        config = Config(connect_timeout=10, read_timeout=60, **options)
        with self._explained():
            session = boto3.session.Session()
            region = session.region_name or "us-east-1"
            self._client: Any = session.client("s3", region_name=region, config=config)

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def read(self, key: str) -> bytes:
        with self._explained():
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
                return bytes(answer["Body"].read())
            except ClientError as exc:
                if _code(exc) in _MISSING:
                    raise KeyError(key) from None
                raise

    def create(self, key: str, data: bytes) -> bool:
        with self._explained():
            for attempt in range(_BUSY_TRIES):
                try:
                    self._client.put_object(
                        Bucket=self._bucket, Key=self._prefix + key, Body=data, IfNoneMatch="*"
                    )
                    return True
                except ClientError as exc:
                    if _code(exc) in _EXISTS:
                        with suppress(KeyError):  # deleted meanwhile: there is room again
                            # Ours, perhaps: boto3 repeats a request whose answer it did not get.
                            return self.read(key) == data
                    elif _code(exc) not in _BUSY:
                        raise
                time.sleep(random.uniform(0, 0.05 * (attempt + 1)))
        raise StoreError(f"{self.url}/{key} is contended by other writers: try again")

    def entries(self, prefix: str, after: str = "") -> list[Stored]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket,
            Prefix=self._prefix + prefix,
            StartAfter=self._prefix + after if after else "",
        )
        with self._explained():
            return [
                Stored(
                    item["Key"].removeprefix(self._prefix),
                    item["Size"],
                    item["LastModified"].timestamp(),
                )
                for page in pages
                for item in page.get("Contents", ())
            ]

    def delete(self, key: str) -> None:
        with self._explained():
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    def unfinished(self) -> list[Stored]:
        return []  # an object store shows no object before it is whole

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except NoCredentialsError as exc:
            raise StoreError(
                f"{self.url}: no AWS credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY"
            ) from exc
        except ClientError as exc:
            advice = {
                "NoSuchBucket": "create the bucket, or name another with --registry",
                "NotImplemented": "this store has no conditional writes, which a registry needs",
            }.get(_code(exc), "check the bucket's name, the credentials and their permissions")
            raise StoreError(f"{self.url}: {exc}: {advice}") from exc
        except BotoCoreError as exc:
            raise StoreError(
                f"{self.url}: {exc}. It is safe to repeat the command once the store answers"
            ) from exc


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
