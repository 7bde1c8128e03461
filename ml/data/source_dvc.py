"""Source 1: the project's DVC remote, read without DVC where that is simple. Uses only the standard
library.

A remote stores each file under its hash: ``files/md5/ab/cdef…``. Folders and plain http(s) URLs are
read directly, s3:// with boto3 or the aws command; every other kind is left to the dvc command.
"""

from __future__ import annotations

import configparser
import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from common.files import user_path
from ml.data.cifar10_files import Pin, PinnedFile, Progress
from ml.data.source import SourceError, download, run_command


@dataclass(frozen=True)
class Remote:
    """A remote's URL (or the absolute path of a folder) and its options, under DVC's names for
    them."""

    url: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DvcSource:
    """``override`` is a URL or folder; without it, the default remote of the repository at
    ``root``."""

    root: Path
    override: str | None = None
    name: str = "dvc"

    def deliver(self, pin: Pin, folder: Path, progress: Progress) -> None:
        remote = configured_remote(self.root, self.override)
        if remote is None:
            raise SourceError(
                "no remote is configured: set KILN_DVC_REMOTE, or the url in .dvc/config"
            )
        _reader(remote)(remote, pin, folder, progress)


def configured_remote(root: Path, override: str | None = None) -> Remote | None:
    """The remote to read, or None if none is configured.

    config.local overrides config, as in DVC. A relative path in them is relative to the .dvc
    folder, that of ``override`` to the user's working directory.
    """
    if override:
        return Remote(override if "://" in override else str(user_path(override).absolute()))
    config = configparser.RawConfigParser()
    for name in ("config", "config.local"):
        path = root / ".dvc" / name
        if path.is_file():
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
            try:
                config.read_string("\n".join(lines), source=str(path))
            except configparser.Error as exc:
                raise SourceError(
                    f"{path} cannot be read: {str(exc).replace(chr(10), ' ')}"
                ) from exc
    section = f"'remote \"{config.get('core', 'remote', fallback='')}\"'"
    if not config.has_option(section, "url"):
        return None
    options = dict(config.items(section))
    url = options.pop("url")
    return Remote(url if "://" in url else os.path.normpath(root / ".dvc" / url), options)


_Reader = Callable[[Remote, Pin, Path, Progress], None]


def _reader(remote: Remote) -> _Reader:
    scheme = urlsplit(remote.url).scheme if "://" in remote.url else ""
    if not scheme:
        return _read_folder
    if scheme in ("http", "https") and "auth" not in remote.options:
        return _read_http
    if scheme == "s3" and _has_boto3():
        return _read_s3_with_boto3
    if scheme == "s3" and shutil.which("aws"):
        return _read_s3_with_aws
    if shutil.which("dvc"):
        return _read_with_dvc
    tools = "boto3, or aws or dvc on PATH" if scheme == "s3" else "dvc on PATH"
    raise SourceError(f"skipped: reading {remote.url} needs {tools}")


def _key(file: PinnedFile) -> str:
    return f"files/md5/{file.md5[:2]}/{file.md5[2:]}"


def _read_folder(remote: Remote, pin: Pin, folder: Path, progress: Progress) -> None:
    base = Path(remote.url)
    if not base.is_dir():
        raise SourceError(f"the remote's folder {base} does not exist")
    for file in pin.files:
        held = base / _key(file)
        if not held.is_file():
            raise SourceError(f"{held}, which should be {file.name}, does not exist")
        with held.open("rb") as source, (folder / file.name).open("wb") as target:
            while block := source.read(1 << 20):
                target.write(block)
                progress.step(f"copying {file.name}", target.tell() / 1e6, file.size / 1e6)


def _read_http(remote: Remote, pin: Pin, folder: Path, progress: Progress) -> None:
    for file in pin.files:
        download(f"{remote.url.rstrip('/')}/{_key(file)}", folder / file.name, file.size, progress)


def _has_boto3() -> bool:
    return importlib.util.find_spec("boto3") is not None


def _bucket_and_key(remote: Remote, file: PinnedFile) -> tuple[str, str]:
    parts = urlsplit(remote.url)
    prefix = parts.path.strip("/")
    return parts.netloc, f"{prefix}/{_key(file)}" if prefix else _key(file)


def _read_s3_with_boto3(remote: Remote, pin: Pin, folder: Path, progress: Progress) -> None:
    client, failures = s3_client(remote.options)
    for file in pin.files:
        bucket, key = _bucket_and_key(remote, file)
        try:
            _download_object(client, bucket, key, folder / file.name, file.size, progress)
        except failures as exc:
            raise SourceError(f"s3://{bucket}/{key}: {str(exc).replace(chr(10), ' ')}") from exc


def s3_client(options: Mapping[str, str]) -> tuple[Any, tuple[type[Exception], ...]]:
    """A client, and the exceptions that its calls raise. Imported by name, since boto3 is
    optional."""
    boto3 = importlib.import_module("boto3")
    config = importlib.import_module("botocore.config").Config(
        connect_timeout=10, read_timeout=30, retries={"total_max_attempts": 2}
    )
    errors = importlib.import_module("botocore.exceptions")
    failures = (errors.BotoCoreError, errors.ClientError)
    try:
        session = boto3.Session(
            profile_name=options.get("profile"),
            region_name=options.get("region"),
            aws_access_key_id=options.get("access_key_id"),
            aws_secret_access_key=options.get("secret_access_key"),
            aws_session_token=options.get("session_token"),
        )
        return session.client(
            "s3", endpoint_url=options.get("endpointurl"), config=config
        ), failures
    except failures as exc:
        raise SourceError(f"boto3 cannot be set up: {exc}") from exc


def _download_object(
    client: Any, bucket: str, key: str, target: Path, size: int, progress: Progress
) -> None:
    done = 0
    body = client.get_object(Bucket=bucket, Key=key)["Body"]
    with target.open("wb") as out:
        for block in body.iter_chunks(1 << 20):
            done += len(block)
            if done > size:
                raise SourceError(f"s3://{bucket}/{key} has more than the expected {size} bytes")
            out.write(block)
            progress.step(f"downloading {target.name}", done / 1e6, size / 1e6)


def _read_s3_with_aws(remote: Remote, pin: Pin, folder: Path, progress: Progress) -> None:
    names = {"endpointurl": "--endpoint-url", "profile": "--profile", "region": "--region"}
    flags = [
        word
        for option, flag in names.items()
        if option in remote.options
        for word in (flag, remote.options[option])
    ]
    variables = {
        f"AWS_{option.upper()}": remote.options[option]
        for option in _AWS_SECRETS
        if option in remote.options
    }
    for file in pin.files:
        bucket, key = _bucket_and_key(remote, file)
        limits = ["--cli-connect-timeout", "10", "--cli-read-timeout", "30", "--only-show-errors"]
        command = ["aws", "s3", "cp", f"s3://{bucket}/{key}", file.name, *limits, *flags]
        run_command(command, folder, progress, variables)


_AWS_SECRETS = ("access_key_id", "secret_access_key", "session_token")


def _read_with_dvc(remote: Remote, pin: Pin, folder: Path, progress: Progress) -> None:
    """Pulls with DVC in a repository of its own, so that the user's workspace is unchanged."""
    repository = folder / "dvc"
    (repository / ".dvc").mkdir(parents=True)
    options = "".join(f"    {name} = {value}\n" for name, value in remote.options.items())
    (repository / ".dvc" / "config").write_text(
        "[core]\n    remote = origin\n    no_scm = true\n    analytics = false\n"
        f"['remote \"origin\"']\n    url = {remote.url}\n{options}",
        encoding="utf-8",
    )
    outs = "".join(
        f"- md5: {f.md5}\n  size: {f.size}\n  hash: md5\n  path: {f.name}\n" for f in pin.files
    )
    (repository / "data.dvc").write_text(f"outs:\n{outs}", encoding="utf-8")
    run_command(
        ["dvc", "pull", "--quiet"],
        repository,
        progress,
        {"DVC_SITE_CACHE_DIR": str(folder / "dvc-site")},
    )
    for file in pin.files:
        (repository / file.name).rename(folder / file.name)
