"""Looks whether a remote on S3 answers, before DVC starts: its own attempts take a quarter of a
minute and end in an unexpected error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
)

from ml.data.source import SourceError
from ml.data.source_dvc import s3_client

_SET_KEYS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile: "
    "bazel run //ml:dvc -- remote modify --local REMOTE profile NAME"
)
_REFUSED = ("403", "AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch")
# Options that decide about access in ways that only DVC knows: then it finds out by itself.
_OTHER_ACCESS = ("allow_anonymous_login", "configpath", "credentialpath")


class RemoteError(ValueError):
    """The remote cannot be used; the message names it and says what to do."""


def check_remote(url: str, options: Mapping[str, Any]) -> None:
    """Asks a remote on S3 for one name, as DVC will; other kinds are left to DVC.

    Raises:
        RemoteError: it does not answer as it should.
    """
    if urlsplit(url).scheme != "s3" or any(options.get(name) for name in _OTHER_ACCESS):
        return
    parts = urlsplit(url)
    try:
        client, _ = s3_client(options)
        client.list_objects_v2(Bucket=parts.netloc, Prefix=parts.path.strip("/"), MaxKeys=1)
    except SourceError as exc:
        raise RemoteError(f"{url}: {exc}; {_SET_KEYS}") from exc
    except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as exc:
        raise RemoteError(f"{url} needs credentials and there are none: {_SET_KEYS}") from exc
    except ConnectionError as exc:
        raise RemoteError(
            f"{url} cannot be reached: {exc}. Check the network, AWS_ENDPOINT_URL, and the "
            f"endpointurl in .dvc/config"
        ) from exc
    except ClientError as exc:
        raise RemoteError(f"{url}: {_explain(exc, parts.netloc)}") from exc
    except BotoCoreError as exc:
        raise RemoteError(f"{url}: {exc}") from exc


def _explain(exc: ClientError, bucket: str) -> str:
    code = str(exc.response.get("Error", {}).get("Code", ""))
    if code == "NoSuchBucket":
        return f"there is no bucket {bucket}: create it, or correct the url"
    if code in _REFUSED:
        return f"these credentials are refused ({code}): {_SET_KEYS}"
    return " ".join(str(exc).split())


def override_settings(remote_url: str) -> dict[str, Any]:
    """Settings of DVC by which one address stands in for the default remote."""
    name = "environment"
    return {"core": {"remote": name}, "remote": {name: {"url": remote_url}}}


def state_folder(root: Path) -> Path:
    """Where DVC may keep what it knows about files: in the workspace, not in the system."""
    return root / ".dvc" / "tmp" / "site"
