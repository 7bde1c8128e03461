"""Objects in the ledger's bucket, written conditionally.

A ledger is of one environment in AWS and always in S3, so there is no other store; the lease needs
If-Match besides, which the model registry has no use for.
"""

from __future__ import annotations

import random
import time
from typing import Any

from botocore.exceptions import ClientError

from infra.release.aws.clients import error_code, explained
from infra.release.errors import ReleaseError

_MISSING = {"NoSuchKey", "404"}
_REFUSED = {"PreconditionFailed", "412"}
_BUSY = {"ConditionalRequestConflict", "409"}  # another writer is at this very key: ask again
_BUSY_TRIES = 20


class Objects:
    """The objects below ``s3://bucket/prefix``."""

    def __init__(self, s3: Any, bucket: str, prefix: str) -> None:
        self._s3, self._bucket = s3, bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def read(self, key: str) -> tuple[bytes, str] | None:
        """An object's bytes and its ETag; None if there is none."""
        with explained(f"{self.url}/{key}"):
            try:
                answer = self._s3.get_object(Bucket=self._bucket, Key=self._prefix + key)
                return bytes(answer["Body"].read()), str(answer["ETag"])
            except ClientError as exc:
                if error_code(exc) in _MISSING:
                    return None
                raise

    def create(self, key: str, data: bytes) -> str | None:
        """The new object's ETag; None if there is an object already, unless with these bytes."""
        return self._put(key, data, IfNoneMatch="*")

    def replace(self, key: str, data: bytes, etag: str) -> str | None:
        """The new ETag; None if the object is not what `etag` says, unless it has these bytes."""
        return self._put(key, data, IfMatch=etag)

    def keys(self, prefix: str, after: str = "") -> list[str]:
        """Keys that start with `prefix` and sort behind `after`, in order."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket,
            Prefix=self._prefix + prefix,
            StartAfter=self._prefix + after if after else "",
        )
        with explained(self.url):
            return [
                item["Key"].removeprefix(self._prefix)
                for page in pages
                for item in page.get("Contents", ())
            ]

    def _put(self, key: str, data: bytes, **condition: str) -> str | None:
        with explained(f"{self.url}/{key}"):
            for attempt in range(_BUSY_TRIES):
                try:
                    answer = self._s3.put_object(
                        Bucket=self._bucket, Key=self._prefix + key, Body=data, **condition
                    )
                    return str(answer["ETag"])
                except ClientError as exc:
                    if error_code(exc) in _REFUSED:
                        # Ours, perhaps: boto3 repeats a request whose answer it did not get.
                        found = self.read(key)
                        return found[1] if found and found[0] == data else None
                    if error_code(exc) not in _BUSY:
                        raise
                time.sleep(random.uniform(0, 0.05 * (attempt + 1)))
        raise ReleaseError(f"{self.url}/{key} is contended by other writers: try again")
