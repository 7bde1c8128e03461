"""Explains a model: image, version, commit, data, configuration, metrics, decisions, live quality.

The last measured live quality of a version is a small file, which is shown without reading
captures.
"""

import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from common.files import kept_place, write_whole
from common.model.signature import PublicKey, SignatureError
from ml.registry.ledger import Record, RegistryError
from ml.registry.registry import Registry
from ml.registry.signing import check
from ml.registry.versions import PREFIX, Image, Manifest


@dataclass(frozen=True)
class Share:
    """An accuracy with its interval, and the number of captured or labelled predictions."""

    value: float
    low: float
    high: float
    rows: int

    @property
    def text(self) -> str:
        """``91.2% (90.1–92.3)``."""
        return f"{self.value:.1%} ({100 * self.low:.1f}–{100 * self.high:.1f})"


@dataclass(frozen=True)
class Summary:
    """Live quality of one version.

    Attributes:
        made, since, until: seconds since 1970: time of measurement, span of the predictions.
        recalibrated: the estimate uses more than the model's own confidence.
        labelled: None without labels.
        chosen: labellers chose what to label.
        promise: minimum acceptable accuracy; None if the model was unavailable.
        says: `Quality.says`.
        drifted: signals that drifted from the reference.
    """

    version: str
    made: float
    since: float
    until: float
    expected: Share
    recalibrated: bool
    labelled: Share | None
    chosen: bool
    promise: float | None
    says: str
    drifted: tuple[str, ...]

    @property
    def text(self) -> str:
        """For tables: ``91.2% (90.1–92.3), 412 labels``, or ``~ 90.4% (88.9–91.8)``."""
        if self.labelled:
            return f"{self.labelled.text}, {self.labelled.rows:,} labels"
        return f"~ {self.expected.text}"


def usual_folder() -> Path:
    """Default location of summaries and recalibrations."""
    return Path(kept_place("KILN_LIVE", "live"))


def write_summary(summary: Summary, folder: Path) -> Path:
    """Writes ``<version>.json`` atomically."""
    path = folder / f"{summary.version}.json"
    write_whole(path, json.dumps(asdict(summary), indent=2, allow_nan=False) + "\n")
    return path


def read_summary(version: str, folder: Path) -> Summary | None:
    """A version's summary; None if there is none, or by another release."""
    try:
        return msgspec.json.decode((folder / f"{version}.json").read_bytes(), type=Summary)
    except (OSError, msgspec.MsgspecError):
        return None


def read_summaries(versions: Iterable[str]) -> dict[str, Summary]:
    """These versions' summaries in the default folder."""
    folder = usual_folder()
    found = ((version, read_summary(version, folder)) for version in versions)
    return {version: one for version, one in found if one is not None}


REQUEST_KEYS = ("request_id", "requestId", "request.id", "trace_id", "traceId", "x-request-id")
VERSION_KEYS = ("model_version", "model.version", "modelVersion", "x-model-version")


def version_in_line(line: str) -> str:
    """The model version in a JSON log line or response.

    Raises:
        RegistryError: it is not a JSON object, or has no version.
    """
    try:
        entry = json.loads(line)
    except ValueError as exc:
        raise RegistryError(f"not a JSON log line: {exc}") from exc
    for version in _values(entry, VERSION_KEYS):
        return version
    raise RegistryError(
        f"the log line names no model version: expected {' or '.join(VERSION_KEYS)}"
    )


def version_of_request(lines: Iterable[str], request: str) -> str:
    """The model version in the first JSON line with this request id and a version.

    Raises:
        RegistryError: no line does.
    """
    seen = False
    for line in lines:
        if request not in line:
            continue
        try:
            entry = json.loads(line[line.index("{") :])
        except ValueError:
            continue  # another program's line
        if request in _values(entry, REQUEST_KEYS):
            seen = True
            for version in _values(entry, VERSION_KEYS):
                return version
    why = "its lines name no model version" if seen else "no JSON line contains it"
    raise RegistryError(f"request {request} is not in the log: {why}")


def _values(entry: Any, keys: tuple[str, ...]) -> Iterator[str]:
    """Texts under any of the keys, at any depth: collectors nest log records."""
    if isinstance(entry, Mapping):
        for key, value in entry.items():
            if key in keys and isinstance(value, str) and value:
                yield value
            else:
                yield from _values(value, keys)
        # OpenTelemetry's JSON: {"key": "model.version", "value": {"stringValue": "…"}}
        if entry.get("key") in keys and isinstance(entry.get("value"), Mapping):
            yield from (text for text in entry["value"].values() if isinstance(text, str))
    elif isinstance(entry, list):
        for item in entry:
            yield from _values(item, keys)


@dataclass(frozen=True)
class Explanation:
    """Everything the registry knows about one version.

    Attributes:
        asked: how the references were resolved, ending in the version.
        aliases: aliases that point at it now.
        signatures: by key fingerprint; true or false for the trusted key, whose signature was
            checked, None for other keys.
        records: ledger records about it or an image with it, oldest first.
        parents: manifests of the registered versions that it was made from.
        commit: subject, author and date, if the local repository has the commit.
        live: the last result of //ml:live on this machine.
    """

    asked: tuple[str, ...]
    manifest: Manifest
    aliases: tuple[str, ...]
    signatures: Mapping[str, bool | None]
    images: tuple[Image, ...]
    records: tuple[Record, ...]
    parents: Mapping[str, Manifest | None]
    commit: str | None
    live: Summary | None = None

    def as_dict(self) -> dict[str, Any]:
        """The explanation as JSON-ready values."""
        return {
            "asked": list(self.asked),
            "version": self.manifest.version,
            "aliases": list(self.aliases),
            "signatures": dict(self.signatures),
            "images": [
                {"digest": image.digest, "linked": vars(image.linked)} for image in self.images
            ],
            "commit": self.commit,
            "live": asdict(self.live) if self.live else None,
            "manifest": self.manifest.as_dict(),
            "history": [record.as_dict() for record in self.records],
        }


def explain(
    registry: Registry,
    reference: str,
    log: Sequence[str] | None = None,
    key: PublicKey | None = None,
) -> Explanation:
    """Traces a reference back to a version's origin.

    Args:
        reference: alias, version or its prefix, image digest, a JSON log line, or the id of a
            request in `log`.
        log: log lines of the service.
        key: the trusted key.

    Raises:
        RegistryError: no registered version is found.
    """
    asked = [reference if len(reference) <= 80 else f"{reference[:77]}..."]
    aliases = registry.state().aliases
    if reference.lstrip().startswith("{"):
        reference = version_in_line(reference)
        asked.append(reference)
    elif log is not None:
        reference = version_of_request(log, reference)
        asked.append(reference)
    if (target := aliases.get(reference, "")).startswith(PREFIX):
        asked.append(target)
    version = registry.resolve(reference)
    if asked[-1] != version:
        asked.append(version)
    manifest = registry.versions.manifest(version)
    images = tuple(image for image in registry.images.all() if image.version == version)
    names = {version, *(image.digest for image in images)}
    return Explanation(
        asked=tuple(asked),
        manifest=manifest,
        aliases=tuple(sorted(alias for alias, target in aliases.items() if target in names)),
        signatures=_signatures(registry, version, key),
        images=images,
        records=tuple(
            record for record in registry.history() if names & {record.source, record.move.target}
        ),
        parents={p.version: registry.versions.find(p.version) for p in manifest.lineage.parents},
        commit=describe_commit(manifest.git_revision),
        live=read_summaries([version]).get(version),
    )


def _signatures(registry: Registry, version: str, key: PublicKey | None) -> dict[str, bool | None]:
    found: dict[str, bool | None] = dict.fromkeys(registry.signatures.of(version))
    if key and key.fingerprint in found:
        try:
            check(registry, version, key)
            found[key.fingerprint] = True
        except SignatureError:
            found[key.fingerprint] = False
    return found


def describe_commit(revision: str) -> str | None:
    """Date, author and subject, if the user's repository has the commit."""
    folder = os.environ.get("BUILD_WORKSPACE_DIRECTORY", os.curdir)
    command = ["git", "show", "--no-patch", "--date=short", "--format=%ad %an: %s"]
    try:
        answer = subprocess.run(
            [*command, revision.removesuffix("-dirty"), "--"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
