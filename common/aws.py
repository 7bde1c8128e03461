"""Objects in S3, written conditionally, and boto3's errors in words that say what to do.

boto3 and not fsspec: the one write that everything rests on, If-None-Match, has to be told apart
from a repeated request whose first answer was lost.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from common.objects import Stored

OTHER = ""  # the key of the advice for all codes that have none of their own
_MISSING = {"NoSuchKey", "404"}
_REFUSED = {"PreconditionFailed", "412"}
_BUSY = {"ConditionalRequestConflict", "409"}  # another writer is at this very key: ask again
_BUSY_TRIES = 20

Explained = Callable[[str], AbstractContextManager[None]]  # turns boto3's errors into the caller's


class S3Store:
    """The objects below ``s3://bucket/prefix``, as `common.objects.Store`; besides, an object can
    be replaced if it is still what was read."""

    def __init__(self, client: Any, bucket: str, prefix: str, explained: Explained) -> None:
        """Nothing is asked of the store yet.

        Args:
            client: of boto3.
            explained: entered around every request with what it is about.
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
        """Writes an object if it is still what `etag` says; without `etag`, if there is none.

        Returns:
            The new ETag, or None: the object is another, and has not these bytes either.
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
                        try:  # ours, perhaps: boto3 repeats a request whose answer it did not get
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
        return []  # an object store shows no object before it is whole


def error_code(error: ClientError) -> str:
    """The error code of AWS, such as "ResourceNotFoundException"."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def aws_errors(what: str, error: type[Exception], advice: Mapping[str, str]) -> Iterator[None]:
    """Errors of boto3 inside become `error` about `what`.

    Args:
        advice: what to do, by AWS's error code; under `OTHER` what to do for any other.
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
        cure = "other writers are at this object: try again" if code in _BUSY else advice[OTHER]
        raise error(f"{what}: {exc}: {advice.get(code, cure)}") from exc
    except BotoCoreError as exc:
        raise error(
            f"{what}: {exc}. It is safe to repeat the command once the service answers"
        ) from exc


def own_s3_endpoint(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether S3 is a store of one's own, which rarely has a host name for every bucket."""
    return any(environ.get(name) for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"))


def addressing(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What botocore's `Config` takes as `s3`."""
    return {"addressing_style": "path" if own_s3_endpoint(environ) else "auto"}
