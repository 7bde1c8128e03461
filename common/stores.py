"""Opens the object store that a URL names: a folder or an S3 bucket."""

from functools import partial
from typing import Any
from urllib.parse import urlsplit

from common.files import user_path
from common.objects import FolderStore, Store, StoreError


def open_store(url: str) -> Store:
    """The store that a URL or a path names.

    Args:
        url: ``s3://bucket/prefix``, ``file:///absolute/path`` or a path.

    Raises:
        StoreError: another kind of URL, or one without a bucket.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        if not parts.netloc:
            raise StoreError(f"{url} names no bucket: expected s3://bucket/prefix")
        return _open_bucket(parts.netloc, parts.path)
    if parts.scheme not in ("", "file") or (parts.scheme and parts.netloc):
        raise StoreError(
            f"{url} cannot be used: expected s3://bucket/prefix, file:///path or a path "
            "(other stores promise no atomic creation)"
        )
    return FolderStore(user_path(parts.path if parts.scheme else url))


def _open_bucket(bucket: str, prefix: str) -> Store:
    """boto3's usual lookup finds endpoint, region and credentials; AWS_ENDPOINT_URL selects a store
    other than Amazon's.
    """
    # imported here: boto3 is slow to import, and folders do not need it
    import boto3
    from botocore.config import Config

    from common.aws import OTHER, S3Store, addressing, aws_errors

    advice = {
        "NoSuchBucket": "create the bucket, or name another",
        "NotImplemented": "this store has no conditional writes, which are needed here",
        OTHER: "check the bucket's name, the credentials and their permissions",
    }
    explained = partial(aws_errors, error=StoreError, advice=advice)
    config = Config(
        connect_timeout=10, read_timeout=60, retries={"mode": "standard"}, s3=addressing()
    )
    with explained(f"s3://{bucket}"):
        session = boto3.session.Session()
        region = session.region_name or "us-east-1"
        client: Any = session.client("s3", region_name=region, config=config)
    return S3Store(client, bucket, prefix, explained)
