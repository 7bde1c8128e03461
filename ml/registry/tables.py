"""The registry's tables."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from ml.registry.explanation import Explanation, Summary
from ml.registry.ledger import Gate, Record
from ml.registry.registry import Inspection
from ml.registry.versions import PREFIX, Manifest

DIGITS = 12
_VERDICTS = {"passed": "green", "healthy": "green", "forced": "yellow", "refused": "red"}


def short(name: str | None) -> str:
    """A prefix of a version or image digest, long enough to type."""
    if name is None:
        return "–"
    return name[: DIGITS + (len(PREFIX) if name.startswith(PREFIX) else 0)]


def size(number: int) -> str:
    """``1.38 MB`` or ``316 kB``."""
    return f"{number / 1e6:.2f} MB" if number >= 1e6 else f"{number / 1e3:.3g} kB"


def print_versions(
    manifests: Sequence[Manifest],
    aliases: Mapping[str, str],
    live: Mapping[str, Summary],
    where: str,
    console: Console,
) -> None:
    """Prints one row per version, newest first; `live` is the last result of //ml:live."""
    table = Table(title=f"{len(manifests)} versions in {escape(where)}", title_justify="left")
    for name in ("version", "name", "aliases"):
        table.add_column(name, overflow="fold")
    for name in ("accuracy", *(["live"] if live else []), "calibration", "size"):
        table.add_column(name, justify="right")
    for name in ("bits", "commit", "registered"):
        table.add_column(name)
    for manifest in reversed(manifests):
        here = sorted(alias for alias, target in aliases.items() if target == manifest.version)
        table.add_row(
            short(manifest.version),
            escape(manifest.name),
            f"[bold green]{escape(', '.join(here))}[/]" if here else "",
            f"{manifest.test.accuracy:.2%}",
            *([_live(live.get(manifest.version))] if live else []),
            f"{manifest.test.calibration_error:.4f}",
            size(manifest.file.size),
            "fp32" if manifest.quantisation == "none" else manifest.quantisation,
            manifest.git_revision[:8] + ("*" if manifest.git_revision.endswith("-dirty") else ""),
            age(manifest.registered.when),
        )
    console.print(table)


def _live(found: Summary | None) -> str:
    if found is None:
        return "–"
    return f"[red]{found.text}[/]" if found.says == "below the promise" else found.text


def print_gates(gates: Sequence[Gate], console: Console) -> None:
    """A line per gate, failed ones in red."""
    table = Table(title="Gates", title_justify="left")
    table.add_column("")
    table.add_column("gate")
    table.add_column("finding", overflow="fold")
    for gate in gates:
        mark = "[green]pass[/]" if gate.passed else "[bold red]FAIL[/]"
        table.add_row(mark, gate.name, escape(gate.detail))
    console.print(table)


def print_history(records: Sequence[Record], console: Console) -> None:
    """Prints one row per record, newest first."""
    table = Table(title=f"{len(records)} records", title_justify="left")
    table.add_column("no.", justify="right")
    for name in ("when (UTC)", "who", "what", "alias", "from", "to", "verdict", "why"):
        table.add_column(name, overflow="fold")
    for record in reversed(records):
        move = record.move
        colour = _VERDICTS.get(move.verdict, "default")
        table.add_row(
            str(record.number),
            move.when[:19].replace("T", " "),
            escape(move.who),
            escape(move.kind),
            escape(move.alias),
            short(record.source),
            short(move.target),
            f"[{colour}]{escape(move.verdict)}[/]",
            escape(move.why),
        )
    console.print(table)


def print_explanation(found: Explanation, console: Console, *, whole: bool) -> None:
    """Prints the provenance as a tree; `whole` adds the configuration and all evidence."""
    m = found.manifest
    tree = Tree(" → ".join(escape(step) for step in found.asked), highlight=True)
    version = tree.add(f"[bold]version {m.version}[/]")
    _facts(
        version,
        {
            "name": m.name,
            "task": f"{len(m.classes)} classes, {'×'.join(map(str, m.input_size))} pixels",
            "aliases": ", ".join(found.aliases) or "none points here",
            "file": f"{size(m.file.size)}, SHA-256 {m.file.sha256}",
            "registered": f"{m.registered.when[:19]} by {m.registered.who}"
            + (f": {m.registered.why}" if m.registered.why else ""),
        },
    )
    version.add(f"signatures: {_signatures(found)}")
    for image in found.images:
        version.add(f"image {image.digest}, linked {image.linked.when[:19]} by {image.linked.who}")
    _facts(
        tree.add("[bold]made from[/]"),
        {
            "commit": m.git_revision + (f" ({found.commit})" if found.commit else ""),
            "data": m.dataset_digest,
            "configuration": m.config_digest + ("" if m.lineage.config else " (not kept)"),
            "packages": f"{m.lock_digest} (requirements_lock.txt)",
            "trained on": f"{m.device}, {m.precision}",
            **{p.relation: _parent(p.version, found) for p in m.lineage.parents},
        },
    )
    test = m.test
    scores = tree.add(f"[bold]test set, {test.images:,} images[/]")
    scores.add(
        f"accuracy {test.accuracy:.2%}, macro F1 {test.macro_f1:.4f}, loss {test.loss:.4f}, "
        f"calibration error {test.calibration_error:.4f}"
    )
    if found.live:
        _live_quality(tree.add("[bold]live quality[/]"), found.live)
    decisions = tree.add("[bold]decisions[/]" if found.records else "[bold]no decision yet[/]")
    for record in found.records:
        _decision(decisions, record, whole=whole)
    if whole and m.lineage.config:
        text = json.dumps(m.lineage.config, indent=2, ensure_ascii=False)
        tree.add("[bold]configuration[/]").add(escape(text))
    console.print(tree)


def print_inspection(found: Inspection, where: str, console: Console) -> None:
    for problem in found.problems:
        console.print(f"[red]damaged[/] {escape(problem)}", highlight=False, soft_wrap=True)
    for stored in found.leftovers:
        console.print(f"leftover {escape(stored.key)} ({stored.size:,} bytes): see `gc`")
    verdict = "[bold red]damaged[/]" if found.problems else "[green]sound[/]"
    console.print(
        f"{escape(where)} is {verdict}: {found.versions} versions, {found.signed} of them signed, "
        f"{found.records} records, "
        f"{found.images} images, {len(found.leftovers)} leftovers",
        highlight=False,
        soft_wrap=True,
    )


def age(when: str) -> str:
    """``3 days ago``, for a UTC time in ISO 8601."""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(when)).total_seconds()
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            number = int(seconds // size)
            return f"{number} {unit}{'s' if number > 1 else ''} ago"
    return "just now"


def _facts(tree: Tree, facts: Mapping[str, str]) -> None:
    for name, value in facts.items():
        tree.add(f"{escape(name)}: {escape(value)}")


def _live_quality(tree: Tree, live: Summary) -> None:
    when = datetime.fromtimestamp(live.made, UTC)
    how = "recalibrated" if live.recalibrated else "from its own confidence"
    kinds = {f"estimated without labels, {how}": live.expected}
    if live.labelled:
        kinds["by labels, whoever labelled chose" if live.chosen else "by labels"] = live.labelled
    for name, share in kinds.items():
        tree.add(f"{name}: {share.text} of {share.rows:,} answers")
    promise = "" if live.promise is None else f", promise {live.promise:.2%}"
    tree.add(f"{live.says}{promise}, measured {age(when.isoformat())}")
    if live.drifted:
        tree.add(f"drifted: {', '.join(live.drifted)}")


def _parent(version: str, found: Explanation) -> str:
    parent = found.parents.get(version)
    known = f"{parent.test.accuracy:.2%}" if parent else "not registered here"
    return f"{version} ({known})"


def _signatures(found: Explanation) -> str:
    """Each key with the state of its signature."""
    known = {True: "[green]holds[/]", False: "[bold red]invalid[/]", None: "not checked"}
    listed = (f"key {key[:DIGITS]} {known[holds]}" for key, holds in found.signatures.items())
    return ", ".join(listed) or "none"


def _decision(tree: Tree, record: Record, *, whole: bool) -> None:
    move = record.move
    branch = tree.add(
        f"{record.number}: {move.when[:19]} {escape(move.who)} {escape(move.kind)} "
        f"{escape(move.alias)} {short(record.source)} → {short(move.target)}, "
        f"[{_VERDICTS.get(move.verdict, 'default')}]{escape(move.verdict)}[/]"
        + (f": {escape(move.why)}" if move.why else "")
    )
    gates: Any = move.evidence.get("gates", ())
    for gate in gates:
        if whole or not gate["passed"]:
            mark = "pass" if gate["passed"] else "FAIL"
            branch.add(f"{mark} {escape(gate['name'])}: {escape(gate['detail'])}")
