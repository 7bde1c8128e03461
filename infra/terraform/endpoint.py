"""Whether the environment names an S3 other than Amazon's, to boto3 and Terraform's provider."""

from __future__ import annotations

from collections.abc import Mapping


def own_s3_endpoint(environ: Mapping[str, str]) -> bool:
    """Whether S3 is a store of one's own, which rarely has a host name for every bucket."""
    return any(environ.get(name) for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"))


def addressing(environ: Mapping[str, str]) -> dict[str, str]:
    """What botocore's `Config` takes as `s3`."""
    return {"addressing_style": "path" if own_s3_endpoint(environ) else "auto"}
