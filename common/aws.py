"""Conditional writes to S3, and translation of boto3's errors into actionable messages.

boto3 and not fsspec: a conditional write (If-None-Match) that fails must be distinguished from a
retry whose first response was lost.
"""

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from common.objects import Stored

OTHER = ""  # advice for every code without an entry of its own
_MISSING = {"NoSuchKey", "404"}
_REFUSED = {"PreconditionFailed", "412"}
_BUSY = {"ConditionalRequestConflict", "409"}  # another writer holds this key: retry
_BUSY_TRIES = 20

Explained = Callable[[str], AbstractContextManager[None]]  # translates boto3's errors


class S3Store:
    """`common.objects.Store` over ``s3://bucket/prefix``, with compare-and-swap by ETag."""

    def __init__(self, client: Any, bucket: str, prefix: str, explained: Explained) -> None:
        """Sends no request.

        Args:
            client: a boto3 S3 client.
            explained: a context manager factory that wraps every request; receives its URL.
        """
        self.client, self._bucket, self._explained = client, bucket, explained
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def read(self, key: str) -> bytes:
        return self.read_tagged(key)[0]

    def read_tagged(self, key: str) -> tuple[bytes, str]:
        """An object's bytes and its ETag; KeyError if there is none."""
        with self._explained(f"{self.url}/{key}"):
            try:
                answer = self.client.get_object(Bucket=self._bucket, Key=self._prefix + key)
                return bytes(answer["Body"].read()), str(answer["ETag"])
            except ClientError as exc:
                if error_code(exc) not in _MISSING:
                    raise
        raise KeyError(key)

    def create(self, key: str, data: bytes) -> bool:
        return self.put(key, data) is not None

    def put(self, key: str, data: bytes, etag: str | None = None) -> str | None:
        """Compare-and-swap: writes the object if its ETag is still `etag`, or if it is absent when
        none is given.

        Returns:
            The new ETag, or None if the object holds other bytes by now.
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        with self._explained(f"{self.url}/{key}"):
            for attempt in range(_BUSY_TRIES):
                try:
                    answer = self.client.put_object(
                        Bucket=self._bucket, Key=self._prefix + key, Body=data, **condition
                    )
                    return str(answer["ETag"])
                except ClientError as exc:
                    if error_code(exc) in _REFUSED:
                        try:  # perhaps our own write, retried after a lost response
                            found, tag = self.read_tagged(key)
                            return tag if found == data else None
                        except KeyError:  # deleted meanwhile
                            if etag is not None:
                                return None
                    elif error_code(exc) not in _BUSY or attempt == _BUSY_TRIES - 1:
                        raise
                time.sleep(random.uniform(0, 0.05 * (attempt + 1)))
        return None

    def entries(self, prefix: str, after: str = "") -> list[Stored]:
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket,
            Prefix=self._prefix + prefix,
            StartAfter=self._prefix + after if after else "",
        )
        with self._explained(self.url):
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
        with self._explained(f"{self.url}/{key}"):
            self.client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    def unfinished(self) -> list[Stored]:
        return []  # object stores never expose a partial object


def error_code(error: ClientError) -> str:
    """The error code of AWS, such as "ResourceNotFoundException"."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def aws_errors(what: str, error: type[Exception], advice: Mapping[str, str]) -> Iterator[None]:
    """Translates boto3's errors in the block into `error`, prefixed with `what`.

    Args:
        advice: what to do for each AWS error code; `OTHER` is the fallback.
    """
    try:
        yield
    except NoCredentialsError as exc:
        raise error(
            f"{what}: no AWS credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        ) from exc
    except ClientError as exc:
        code = error_code(exc)
        cure = "other writers hold this object: try again" if code in _BUSY else advice[OTHER]
        raise error(f"{what}: {exc}: {advice.get(code, cure)}") from exc
    except BotoCoreError as exc:
        raise error(
            f"{what}: {exc}. It is safe to repeat the command once the service answers"
        ) from exc


def own_s3_endpoint(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether S3 is a self-hosted endpoint, which rarely supports virtual-host addressing."""
    return any(environ.get(name) for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"))


def addressing(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The `s3` option of botocore's `Config`: path-style addressing for self-hosted endpoints."""
    return {"addressing_style": "path" if own_s3_endpoint(environ) else "auto"}
