"""The registry's commands: each performs or reads something and returns its output."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from common.files import user_path, write_whole
from common.model.signature import SUFFIX, SignatureError
from ml.registry import tables
from ml.registry.explanation import explain, read_summaries
from ml.registry.ledger import REFUSED, Gate, GateLimits, Record, RegistryError
from ml.registry.registry import CHAMPION, UNCHECKED, Registry, check_alias, collect, inspect
from ml.registry.signing import Signer, check, new_key, sign, trusted_key
from ml.registry.tables import short
from ml.registry.versions import PREFIX, Manifest, Parent

Progress = Callable[[str], None]


@dataclass(frozen=True)
class CommandResult:
    """A command's result: as text, as data, and as an exit code."""

    show: Callable[[Console], None]
    data: dict[str, Any]
    exit_code: int = 0


def lines(*texts: str) -> Callable[[Console], None]:
    """Prints texts with rich markup, skipping empty ones."""
    return partial(_print, texts)


def _print(texts: tuple[str, ...], console: Console) -> None:
    for text in filter(None, texts):
        console.print(text, highlight=False, soft_wrap=True)


def register(registry: Registry, options: argparse.Namespace, progress: Progress) -> CommandResult:
    # Imports configuration libraries, which no other command needs.
    from ml.registry.submission import read_submission

    signer = Signer.open(options.sign_with) if options.sign_with else None
    parents = [Parent(registry.resolve(ref), options.relation) for ref in options.parent]
    submission = read_submission(user_path(options.model), parents)
    progress("writing the model")
    manifest, new = registry.register(submission.data, submission.lineage, options.reason)
    if submission.weights:
        progress("writing the weights")
        registry.weights.add(manifest.version, submission.weights)
    if signer:
        progress("signing the model")
        sign(registry, manifest.version, signer)
    texts = [
        f"{'Registered' if new else 'Registered already:'} {manifest.name} as version "
        f"[bold]{manifest.version}[/]: accuracy {manifest.test.accuracy:.2%}, "
        f"{tables.size(manifest.file.size)}, in {escape(registry.store.url)}",
        f"Signed with the key {short(signer.key.fingerprint)}" if signer else "",
        f"Next: promote {short(manifest.version)}" if new else "",
    ]
    signed = signer.key.fingerprint if signer else None
    data = {
        "new": new,
        "version": manifest.version,
        "manifest": manifest.as_dict(),
        "signed": signed,
    }
    mirrored = _mirror(registry, options, manifest.version, progress)
    return CommandResult(lines(*texts, *mirrored.values()), data | mirrored)


def sign_version(
    registry: Registry, options: argparse.Namespace, progress: Progress
) -> CommandResult:
    if not options.sign_with:
        raise RegistryError("no key: --sign-with names one, or KILN_SIGNING_KEY")
    signer, version = Signer.open(options.sign_with), registry.resolve(options.version)
    new, key = sign(registry, version, signer), signer.key.fingerprint
    text = f"{short(version)} is signed with the key {short(key)}" + ("" if new else " already")
    return CommandResult(lines(text), {"version": version, "key": key, "new": new})


def make_key(registry: Registry, options: argparse.Namespace, progress: Progress) -> CommandResult:
    """Writes a new key pair, or the public key of an existing one."""
    if options.public_of:
        key = Signer.open(options.public_of).key
        sys.stdout.write(key.pem)
        return CommandResult(lines(), {"key": key.fingerprint, "public": key.pem})
    private, public = new_key(user_path(options.folder))
    text = f"Wrote {escape(str(private))} (keep it secret) and {escape(str(public))}"
    return CommandResult(lines(text), {"private": str(private), "public": str(public)})


def promote(registry: Registry, options: argparse.Namespace, progress: Progress) -> CommandResult:
    """Points an alias at a version that passes the gates."""
    if options.force and not options.reason:
        raise RegistryError("--force overrides the gates: give a --reason, which is recorded")
    check_alias(options.alias)
    state, version = registry.state(), registry.resolve(options.version)
    if state.aliases.get(options.alias) == version:
        return _moved(None, options.alias, version, [])
    gates, limits = _ask_gates(registry, options, version, progress)
    passed = all(gate.passed for gate in gates)
    if options.dry_run:
        says = "would be promoted" if passed else "would be refused"
        show = partial(_show_gates, gates, f"{short(version)} {says}; nothing was changed")
        data = {"version": version, "passed": passed, "gates": [asdict(gate) for gate in gates]}
        return CommandResult(show, data, exit_code=0 if passed else 1)
    record = registry.promote(
        version,
        options.alias,
        why=options.reason,
        verdict="passed" if passed else "forced" if options.force else REFUSED,
        evidence={"gates": [asdict(gate) for gate in gates], "limits": asdict(limits)},
        seen=state.number,
    )
    mirrored = _mirror(registry, options, version, progress) if passed or options.force else {}
    return _moved(record, options.alias, version, gates, mirrored)


def rollback(registry: Registry, options: argparse.Namespace, progress: Progress) -> CommandResult:
    """Points an alias at an earlier version."""
    to = registry.resolve(options.to) if options.to else None
    expected = registry.resolve(options.expected) if options.expected else None
    record = registry.rollback(options.alias, to, why=options.reason, expected=expected)
    now = registry.state().aliases[options.alias]
    mirrored = {} if now.startswith(PREFIX) else _mirror(registry, options, now, progress)
    return _moved(record, options.alias, now, [], mirrored)


def unalias(registry: Registry, options: argparse.Namespace, progress: Progress) -> CommandResult:
    if options.alias not in registry.state().aliases:
        raise RegistryError(f"{options.alias} is no alias in {registry.store.url}: see `list`")
    record = registry.move(
        options.alias, None, kind="remove", why=options.reason, verdict=UNCHECKED
    )
    return _moved(record, options.alias, None, [])


def link(registry: Registry, options: argparse.Namespace, progress: Progress) -> CommandResult:
    """Records which version an image holds."""
    version = registry.resolve(options.version)
    image, new = registry.link_image(options.image, version, options.reason)
    text = f"{image.digest} holds version {version}" + ("" if new else " (linked already)")
    return CommandResult(lines(text), {"image": image.digest, "version": version, "new": new})


def gc(registry: Registry, options: argparse.Namespace, progress: Progress) -> CommandResult:
    """Removes leftovers of killed registrations."""
    removed = collect(registry, options.older_than_hours * 3600, dry_run=options.dry_run)
    done = "would be removed" if options.dry_run else "removed"
    size = sum(stored.size for stored in removed)
    texts = [f"{escape(stored.key)} {done}" for stored in removed]
    data = {"removed": [stored.key for stored in removed], "dry_run": options.dry_run}
    return CommandResult(
        lines(*texts, f"{len(removed)} leftovers {done}, {tables.size(size)}"), data
    )


def list_versions(
    registry: Registry, options: argparse.Namespace, progress: Progress
) -> CommandResult:
    """Lists all versions, newest first."""
    manifests, aliases = registry.versions.manifests(), registry.state().aliases
    where = registry.store.url
    live = read_summaries(manifest.version for manifest in manifests)

    def show(console: Console) -> None:
        if manifests:
            tables.print_versions(manifests, aliases, live, where, console)
        else:
            lines(f"No versions in {escape(where)} yet: register runs/<folder>")(console)

    listed = [
        manifest.as_dict()
        | {"live": asdict(live[manifest.version]) if manifest.version in live else None}
        for manifest in reversed(manifests)
    ]
    return CommandResult(show, {"registry": where, "aliases": dict(aliases), "versions": listed})


def history(registry: Registry, options: argparse.Namespace, progress: Progress) -> CommandResult:
    """Prints the ledger's records."""
    records = registry.history(options.alias)
    data = {"records": [record.as_dict() for record in records]}
    return CommandResult(partial(tables.print_history, records), data)


def explain_reference(
    registry: Registry, options: argparse.Namespace, progress: Progress
) -> CommandResult:
    """Explains a version's origin."""
    log = None
    if options.log:
        try:
            text = (
                sys.stdin.read()
                if options.log == "-"
                else user_path(options.log).read_text(encoding="utf-8", errors="replace")
            )
        except OSError as exc:
            raise RegistryError(f"{options.log} cannot be read: {exc.strerror}") from exc
        log = text.splitlines()
    found = explain(registry, options.reference, log, trusted_key(options.model_key))
    return CommandResult(
        partial(tables.print_explanation, found, whole=options.all), found.as_dict()
    )


def pull(registry: Registry, options: argparse.Namespace, progress: Progress) -> CommandResult:
    """Writes a version's model to a file, with its signature beside it."""
    key, version = trusted_key(options.model_key), registry.resolve(options.version)
    manifest, model = registry.versions.manifest(version), registry.versions.model(version)
    signatures = registry.signatures.of(version)
    if key:
        try:
            signatures = {key.fingerprint: check(registry, version, key, model)}
        except SignatureError as exc:
            raise RegistryError(f"version {version} is not trusted: {exc}") from exc
    path = user_path(options.output or f"{manifest.name}-{short(version)}.onnx")
    if path.is_dir():
        raise RegistryError(f"{path} is a folder: name a file with -o")
    if path.exists() and path.read_bytes() != model and not options.overwrite:
        raise RegistryError(
            f"{path} exists with other content: choose another file, or --overwrite it"
        )
    try:
        write_whole(path, model)
        for signature in list(signatures.values())[:1]:
            write_whole(path.with_name(path.name + SUFFIX), signature)
    except OSError as exc:
        raise RegistryError(f"{path} cannot be written: {exc.strerror}") from exc
    text = f"{escape(str(path))}: {manifest.name}, version {version}, {tables.size(len(model))}"
    return CommandResult(lines(text), {"path": str(path), "version": version})


def verify(registry: Registry, options: argparse.Namespace, progress: Progress) -> CommandResult:
    """Reads every object of the registry and checks its digest."""
    found = inspect(registry, progress, trusted_key(options.model_key))
    where = registry.store.url
    data = {**vars(found), "registry": where, "leftovers": [s.key for s in found.leftovers]}
    show = partial(tables.print_inspection, found, where)
    return CommandResult(show, data, exit_code=1 if found.problems else 0)


def _ask_gates(
    registry: Registry, options: argparse.Namespace, version: str, progress: Progress
) -> tuple[list[Gate], GateLimits]:
    from ml.registry.gates import judge  # imports onnxruntime, which listing does not need
    from ml.registry.outcomes import find_examples

    champion = options.against
    if champion is None and CHAMPION in registry.state().aliases:
        champion = CHAMPION
    examples = None
    if not options.no_test_data:
        npz = user_path(options.test_data) if options.test_data else None
        examples = find_examples(registry.versions.manifest(version), npz)
    given = vars(options)
    limits = GateLimits(**{f.name: given[f.name] for f in fields(GateLimits) if f.name in given})
    gates = judge(
        registry,
        version,
        registry.resolve(champion) if champion else None,
        limits,
        examples,
        use_benchmark=options.use_benchmark,
        key=trusted_key(options.model_key),
        progress=progress,
    )
    return gates, limits


def _moved(
    record: Record | None,
    alias: str,
    version: str | None,
    gates: Sequence[Gate],
    mirrored: dict[str, str] | None = None,
) -> CommandResult:
    """The outcome of moving an alias, with the gates' results if they ran."""
    refused = record is not None and not record.move.moved
    data = {
        "alias": alias,
        "version": version,
        "changed": record is not None and not refused,
        "record": record.as_dict() if record else None,
    }
    if record is None:
        text = f"{alias} is at {short(version)} already: nothing to do"
    elif refused:
        text = (
            f"[bold red]Refused[/] (record {record.number}): {alias} stays at "
            f"{short(record.source)}. --force --reason … overrides the gates"
        )
    else:
        text = (
            f"[bold green]{alias}[/]: {short(record.source)} → [bold]{short(version)}[/] "
            f"({record.move.kind}, {record.move.verdict}, record {record.number})"
        )
    show = partial(_show_gates, gates, "\n".join([text, *(mirrored or {}).values()]))
    return CommandResult(show, data | (mirrored or {}), exit_code=1 if refused else 0)


def _show_gates(gates: Sequence[Gate], text: str, console: Console) -> None:
    if gates:
        tables.print_gates(gates, console)
    lines(text)(console)


def _mirror(
    registry: Registry, options: argparse.Namespace, version: str, progress: Progress
) -> dict[str, Any]:
    """Mirrors a version to W&B if the user wants that; the outcome is under `wandb`."""
    project = options.wandb or os.environ.get("KILN_REGISTRY_WANDB")
    if not project:
        return {}
    progress("mirroring to W&B")
    manifest: Manifest = registry.versions.manifest(version)
    aliases = [a for a, target in registry.state().aliases.items() if target == version]
    said = mirror(manifest, registry.versions.model(version), aliases, project)
    return {"wandb": escape(said)}


def mirror(manifest: Manifest, model: bytes, aliases: Sequence[str], project: str) -> str:
    """Logs a version as an artifact with its aliases.

    Returns:
        The outcome for the user: an outage of W&B is not an error.
    """
    try:
        return _log(manifest, model, aliases, project)
    except Exception as exc:  # whatever a network, a key or a W&B release may raise
        return f"not mirrored to W&B: {type(exc).__name__}: {exc}"


def _log(manifest: Manifest, model: bytes, aliases: Sequence[str], project: str) -> str:
    import wandb

    has_key = "WANDB_API_KEY" in os.environ
    mode: Any = os.environ.get("WANDB_MODE") or ("online" if has_key else "offline")
    folder = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY", ""), ".kiln")
    folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(silent=True, console="off")
    options = {"project": project, "job_type": "registry", "dir": str(folder), "mode": mode}
    with tempfile.TemporaryDirectory(prefix="kiln-mirror-") as staging:
        path = Path(staging, "model.onnx")
        path.write_bytes(model)
        with wandb.init(**options, settings=settings) as run:
            artifact = wandb.Artifact(manifest.name, type="model", metadata=manifest.as_dict())
            artifact.add_file(str(path))
            run.log_artifact(artifact, aliases=[manifest.version[:12], *aliases])
    return f"mirrored to W&B project {project} ({mode})"
