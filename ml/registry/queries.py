"""Registry commands that only read: list, history, explain, pull, verify."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console
from rich.markup import escape

from common.files import user_path, write_whole
from ml.registry import tables
from ml.registry.explanation import explain
from ml.registry.housekeeping import inspect
from ml.registry.registry import Registry
from ml.registry.store import RegistryError
from ml.registry.tables import short

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Answer:
    """What was found or done."""

    show: Callable[[Console], None]
    data: dict[str, Any]
    exit_code: int = 0


def lines(*texts: str) -> Callable[[Console], None]:
    """Shows texts in rich's markup, those that are not empty."""
    return partial(_print, texts)


def _print(texts: tuple[str, ...], console: Console) -> None:
    for text in filter(None, texts):
        console.print(text, highlight=False, soft_wrap=True)


def list_versions(registry: Registry, options: argparse.Namespace, progress: Progress) -> Answer:
    """Lists all versions, newest first."""
    manifests, aliases = registry.versions.manifests(), registry.state().aliases
    where = registry.store.url

    def show(console: Console) -> None:
        if manifests:
            tables.print_versions(manifests, aliases, where, console)
        else:
            lines(f"No versions in {escape(where)} yet: register runs/<folder>")(console)

    listed = [manifest.as_dict() for manifest in reversed(manifests)]
    return Answer(show, {"registry": where, "aliases": dict(aliases), "versions": listed})


def history(registry: Registry, options: argparse.Namespace, progress: Progress) -> Answer:
    """Every record of the ledger."""
    records = registry.history(options.alias)
    data = {"records": [record.as_dict() for record in records]}
    return Answer(partial(tables.print_history, records), data)


def explain_reference(
    registry: Registry, options: argparse.Namespace, progress: Progress
) -> Answer:
    """The chain behind a version."""
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
    found = explain(registry, options.reference, log)
    return Answer(partial(tables.print_explanation, found, whole=options.all), found.as_dict())


def pull(registry: Registry, options: argparse.Namespace, progress: Progress) -> Answer:
    """Writes a version's model to a file."""
    version = registry.resolve(options.version)
    manifest, model = registry.versions.manifest(version), registry.versions.model(version)
    path = user_path(options.output or f"{manifest.name}-{short(version)}.onnx")
    if path.is_dir():
        raise RegistryError(f"{path} is a folder: name a file with -o")
    if path.exists() and path.read_bytes() != model and not options.overwrite:
        raise RegistryError(f"{path} holds something else: name another file, or --overwrite it")
    try:
        write_whole(path, model)
    except OSError as exc:
        raise RegistryError(f"{path} cannot be written: {exc.strerror}") from exc
    text = f"{escape(str(path))}: {manifest.name}, version {version}, {tables.size(len(model))}"
    return Answer(lines(text), {"path": str(path), "version": version})


def verify(registry: Registry, options: argparse.Namespace, progress: Progress) -> Answer:
    """Reads and checks everything."""
    found = inspect(registry, progress)
    where = registry.store.url
    data = {**vars(found), "registry": where, "leftovers": [s.key for s in found.leftovers]}
    show = partial(tables.print_inspection, found, where)
    return Answer(show, data, exit_code=1 if found.problems else 0)
