"""Write the hub's BUILD files: one package of targets per distribution, its files spelled out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tools.offline.pypi_hub.distribution import Distribution, HubError

_LOAD = 'load("@rules_python//python:py_library.bzl", "py_library")\n'
_PUBLIC = 'package(default_visibility = ["//visibility:public"])\n'
_SITECUSTOMIZE = Path(__file__).with_name("sitecustomize.py")


def render(
    distributions: Mapping[str, Distribution],
    cycles: Mapping[str, Sequence[str]],
    bytecode: Mapping[str, str],
) -> dict[str, str]:
    """BUILD files by path within the hub.

    Args:
        distributions: by normalised name.
        cycles: declared groups of distributions that require each other.
        bytecode: compiled file of each source that has one.
    """
    group_of = {member: group for group, members in cycles.items() for member in members}
    check_cycles(distributions, group_of)
    site = [_LOAD, _PUBLIC]
    for distribution in distributions.values():
        site += _targets(distribution, group_of, bytecode)
    for group, members in cycles.items():
        site.append(_group(group, [distributions[member] for member in members]))
    programs = sorted({program for d in distributions.values() for program in d.programs})
    files = {
        "BUILD.bazel": f"exports_files({json.dumps(programs)})\n",
        "site-packages/BUILD.bazel": "\n".join(site),
        "on_disk/BUILD.bazel": 'exports_files(["sitecustomize.py"])\n',
        "on_disk/sitecustomize.py": _SITECUSTOMIZE.read_text(encoding="utf-8"),
    }
    for name, distribution in distributions.items():
        files[f"{name}/BUILD.bazel"] = _public_package(distribution)
        files[f"{name}/digest"] = f"{distribution.digest}\n"
    return files


def check_cycles(distributions: Mapping[str, Distribution], group_of: Mapping[str, str]) -> None:
    """Raises:
    HubError: distributions require each other and no one group declares them.
    """
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            cycle = path[path.index(name) :]
            if len({group_of.get(member, member) for member in cycle}) > 1:
                declaration = json.dumps({cycle[0]: sorted(cycle)})
                raise HubError(
                    f"{' → '.join((*cycle, name))} is a cycle; say so in MODULE.bazel's pip.parse:"
                    f" experimental_requirement_cycles = {declaration}"
                )
            return
        if name in done:
            return
        for required in sorted(distributions[name].requires):
            visit(required, (*path, name))
        done.add(name)

    for name in distributions:
        visit(name, ())


def _targets(
    distribution: Distribution, group_of: Mapping[str, str], bytecode: Mapping[str, str]
) -> list[str]:
    name, group = distribution.name, group_of.get(distribution.name)
    compiled = [bytecode[source] for source in distribution.sources if source in bytecode]
    labels = [f"//:{program}" for program in distribution.programs]
    files = _library(
        f"{name}.files",
        srcs=distribution.sources,
        data=[
            *distribution.data,
            *compiled,
            *labels,
            f"//{name}:digest",
            "//on_disk:sitecustomize.py",
        ],
        imports=["."],
    )
    if group:
        deps = [f":{group}.cycle"]
    else:
        deps = [
            f":{name}.files",
            *(f":{required}.pkg" for required in sorted(distribution.requires)),
        ]
    return [
        files,
        _library(f"{name}.pkg", deps=deps),
        _filegroup(f"{name}.dist_info", distribution.metadata),
        _filegroup(f"{name}.data", labels),
    ]


def _group(group: str, members: Sequence[Distribution]) -> str:
    inside = {member.name for member in members}
    outside = {name for member in members for name in member.requires} - inside
    deps = [
        *(f":{name}.files" for name in sorted(inside)),
        *(f":{name}.pkg" for name in sorted(outside)),
    ]
    return _library(f"{group}.cycle", deps=deps)


def _public_package(distribution: Distribution) -> str:
    name = distribution.name
    aliases = {name: "pkg", "pkg": "pkg", "data": "data", "dist_info": "dist_info"}
    lines = [_PUBLIC, 'exports_files(["digest"])\n']
    for alias, target in aliases.items():
        lines.append(
            f'alias(\n    name = "{alias}",\n    actual = "//site-packages:{name}.{target}",\n)\n'
        )
    return "\n".join(lines)


def _library(name: str, **attributes: Iterable[str]) -> str:
    return _rule("py_library", name, attributes)


def _filegroup(name: str, srcs: Iterable[str]) -> str:
    return _rule("filegroup", name, {"srcs": srcs})


def _rule(kind: str, name: str, attributes: Mapping[str, Iterable[str]]) -> str:
    lines = [f"{kind}(", f"    name = {json.dumps(name)},"]
    for attribute, values in attributes.items():
        lines += [f"    {attribute} = [", *(f"        {json.dumps(v)}," for v in values), "    ],"]
    return "\n".join([*lines, ")\n"])
