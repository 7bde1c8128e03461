"""What our Bazel files use of other modules, and what a world offers: both read, none assumed.

Starlark's syntax is Python's as far as our files go, so `ast` reads them; the adaptors' files are
even run, with Bazel's built-ins replaced by recorders.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from tools.provision.bazel import MODULES

_LABEL = re.compile(
    r"@@?(?P<repo>[A-Za-z][\w.~+-]*)//(?P<package>[\w./+-]*)(:(?P<target>[\w./+-]+))?"
)
_EXPORTED = re.compile(r'exports_files\(\["(\w+)"\]')
_BUILT_IN = frozenset({"bazel_tools"})  # part of Bazel itself, the same in both worlds
# Debian packages them with its Bazel; that they have what we use, only a build with them shows.
PROVISIONED = frozenset(MODULES)


@dataclass(frozen=True, order=True)
class Use:
    """A ``symbol`` of a .bzl ``file``, perhaps an attribute of it; or a plain target."""

    where: str
    module: str
    file: str = ""
    symbol: str = ""
    tag: str = ""
    attribute: str = ""
    target: str = ""

    def __str__(self) -> str:
        name = f"@{self.module}{self.file or self.target}"
        parts = [self.symbol, self.tag, self.attribute]
        return f"{self.where}: {' '.join([name, *(part for part in parts if part)])}"


class World(Protocol):
    """Does it have what a file uses?"""

    def offers(self, use: Use) -> bool: ...


def missing(uses: Iterable[Use], world: World) -> list[str]:
    return sorted({str(use) for use in uses if not world.offers(use)})


# ---- What is used --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Symbol:
    """Something loaded: ``name`` of the file ``label`` (``@module//…`` or ``//…``)."""

    label: str
    name: str


@dataclass
class BazelFile:
    """A BUILD, MODULE or .bzl file, its loads resolved."""

    path: str
    tree: ast.Module
    loads: dict[str, Symbol] = field(default_factory=dict)

    @classmethod
    def parse(cls, path: str, text: str) -> BazelFile:
        file = cls(path, ast.parse(text, path))
        for call in _calls(file.tree):
            if isinstance(call.func, ast.Name) and call.func.id == "load":
                label, *names = [_text(argument) for argument in call.args]
                renamed = {str(keyword.arg): _text(keyword.value) for keyword in call.keywords}
                for local, name in ({name: name for name in names} | renamed).items():
                    file.loads[local] = Symbol(file.absolute(label), name)
        return file

    @property
    def package(self) -> str:
        return self.path.rpartition("/")[0]

    def absolute(self, label: str) -> str:
        return f"//{self.package}{label}" if label.startswith(":") else label

    def where(self, node: ast.expr) -> str:
        return f"{self.path}:{node.lineno}"


def uses_of(files: Mapping[str, str]) -> list[Use]:
    """Everything that these files (text by path) ask of other modules."""
    parsed = [BazelFile.parse(path, text) for path, text in files.items()]
    macros = _macros(parsed)
    ours = {repo for file in parsed for repo in _own_repositories(file)}
    uses: list[Use] = []
    for file in parsed:
        uses += _loaded(file)
        uses += _attributes(file, macros)
        uses += _tags(file)
        uses += [use for use in _targets(file) if use.module not in ours | _BUILT_IN]
    return uses


def dependencies(module_file: str) -> dict[str, str]:
    """Version by name of every bazel_dep."""
    found = {}
    for call in _calls(ast.parse(module_file)):
        if isinstance(call.func, ast.Name) and call.func.id == "bazel_dep":
            values = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
            found[values["name"]] = values["version"]
    return found


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _text(node: ast.expr) -> str:
    value = ast.literal_eval(node)
    assert isinstance(value, str)
    return value


def _external(label: str) -> tuple[str, str] | None:
    if not label.startswith("@"):
        return None
    module, _, rest = label.lstrip("@").partition("//")
    return module, f"//{rest}"


@dataclass(frozen=True)
class Macro:
    """A function of ours: keywords that it does not name go on to the symbols that it calls."""

    parameters: frozenset[str]
    passes_to: tuple[Symbol, ...]


def _macros(files: Iterable[BazelFile]) -> dict[Symbol, Macro]:
    macros = {}
    for file in files:
        for node in file.tree.body:
            if isinstance(node, ast.FunctionDef) and node.args.kwarg:
                rest = node.args.kwarg.arg
                callees = [
                    call.func.id
                    for call in _calls(node)
                    if isinstance(call.func, ast.Name)
                    and any(k.arg is None and rest in ast.dump(k.value) for k in call.keywords)
                ]
                label = f"//{file.package}:{file.path.rpartition('/')[2]}"
                macros[Symbol(label, node.name)] = Macro(
                    frozenset(a.arg for a in (*node.args.args, *node.args.kwonlyargs)),
                    tuple(file.loads.get(name, Symbol(label, name)) for name in callees),
                )
    return macros


def _loaded(file: BazelFile) -> Iterator[Use]:
    for symbol in file.loads.values():
        if outside := _external(symbol.label):
            yield Use(file.path, *outside, symbol.name)


def _attributes(file: BazelFile, macros: Mapping[Symbol, Macro]) -> Iterator[Use]:
    for call in _calls(file.tree):
        if isinstance(call.func, ast.Name) and call.func.id in file.loads:
            for keyword in call.keywords:
                if keyword.arg is not None:
                    for symbol in _receivers(file.loads[call.func.id], keyword.arg, macros):
                        if outside := _external(symbol.label):
                            yield Use(
                                file.where(call), *outside, symbol.name, attribute=keyword.arg
                            )


def _receivers(symbol: Symbol, keyword: str, macros: Mapping[Symbol, Macro]) -> Iterator[Symbol]:
    macro = macros.get(symbol)
    if macro is None:
        yield symbol
    elif keyword not in macro.parameters:
        for callee in macro.passes_to:
            yield from _receivers(callee, keyword, macros)


def _extensions(file: BazelFile) -> dict[str, Symbol]:
    """Extensions that a MODULE file uses, by the variable that holds each."""
    return {
        target.id: Symbol(_text(node.value.args[0]), _text(node.value.args[1]))
        for node in file.tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "use_extension"
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _tags(file: BazelFile) -> Iterator[Use]:
    extensions = _extensions(file)
    for call in _calls(file.tree):
        function = call.func
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            extension = extensions.get(function.value.id)
            outside = _external(extension.label) if extension else None
            if extension and outside:
                for keyword in call.keywords:
                    yield Use(
                        file.where(call),
                        *outside,
                        extension.name,
                        tag=function.attr,
                        attribute=str(keyword.arg),
                    )


def _own_repositories(file: BazelFile) -> Iterator[str]:
    """Names of repositories that extensions of this repository make."""
    extensions = _extensions(file)
    for call in _calls(file.tree):
        if isinstance(call.func, ast.Name) and call.func.id == "use_repo":
            variable, *names = call.args
            assert isinstance(variable, ast.Name)
            if extensions[variable.id].label.startswith("//"):
                yield from map(_text, names)
                yield from (str(keyword.arg) for keyword in call.keywords)


def _targets(file: BazelFile) -> Iterator[Use]:
    other = {id(argument) for call in _calls(file.tree) for argument in _names_a_file(call)}
    other |= {id(node.value) for node in ast.walk(file.tree) if isinstance(node, ast.Expr)}  # docs
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in other:
            for match in _LABEL.finditer(node.value):
                package = match["package"]
                target = match["target"] or package.rpartition("/")[2]
                yield Use(file.where(node), match["repo"], target=f"//{package}:{target}")


def _names_a_file(call: ast.Call) -> list[ast.expr]:
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    return call.args[:1] if name in ("load", "use_extension") else []


# ---- What the two worlds offer -------------------------------------------------------------------


class Hubs:
    """@pypi and its like in either world: a package for each name in the lock, and its targets."""

    def __init__(self, locked: Mapping[str, Iterable[str]], targets: Iterable[str]) -> None:
        self._locked = {repository: frozenset(packages) for repository, packages in locked.items()}
        self._targets = frozenset(targets)

    def __contains__(self, repository: str) -> bool:
        return repository in self._locked

    def offers(self, use: Use) -> bool:
        package, _, target = use.target.removeprefix("//").partition(":")
        return package in self._locked[use.module] and target in {package, *self._targets}


class Upstream:
    """As the checked-in table says."""

    def __init__(self, table: Mapping[str, Any], locked: Mapping[str, Iterable[str]]) -> None:
        self.modules, self.common = table["modules"], table["common"]
        self.hubs = Hubs(locked, table["hub"]["targets"])
        self.repositories = {
            name: labels
            for module in self.modules.values()
            for name, labels in module.get("repositories", {}).items()
        }

    def offers(self, use: Use) -> bool:
        if use.module in self.hubs:
            return self.hubs.offers(use)
        if use.module in self.repositories:
            return use.target in self.repositories[use.module]
        module = self.modules.get(use.module, {})
        if use.target:
            return use.target in {_full(label) for label in module.get("targets", [])}
        if use.tag:
            tags = module.get("extensions", {}).get(use.file, {}).get(use.symbol, {})
            return use.attribute in tags.get(use.tag, [])
        symbol = module.get("files", {}).get(use.file, {}).get(use.symbol)
        if symbol is None or not use.attribute:
            return symbol is not None
        common = [name for group in symbol["common"] for name in self.common[group]]
        return use.attribute in symbol["attributes"] or use.attribute in common


def _full(label: str) -> str:
    return label if ":" in label else f"{label}:{label.rpartition('/')[2]}"


class Refused(Exception):
    """The adaptor fails on what it is given."""


class Offline:
    """As the adaptors' files do when they are run."""

    def __init__(
        self, adaptors: Path, locked: Mapping[str, Iterable[str]], targets: Iterable[str]
    ) -> None:
        self.adaptors = adaptors
        self.hubs = Hubs(locked, targets)
        self._scopes: dict[Path, dict[str, Any]] = {}

    def offers(self, use: Use) -> bool:
        if use.module in self.hubs:
            return self.hubs.offers(use)
        if use.module in PROVISIONED:
            return True
        if use.module in self._repositories():
            return use.target in self._repositories()[use.module]
        path = self.adaptors / use.module / use.file.removeprefix("//").replace(":", "/")
        if use.target or not path.is_file():
            return False
        symbol = self._run(path, self.adaptors / use.module).get(use.symbol)
        if use.tag:
            tag = symbol.tag_classes.get(use.tag) if isinstance(symbol, Definition) else None
            return tag is not None and use.attribute in tag.attrs
        if symbol is None or not use.attribute:
            return symbol is not None
        return _takes(symbol, use.attribute)

    def _repositories(self) -> dict[str, list[str]]:
        """What the extension of interpreters makes, and the files that its BUILD file exports."""
        module = self.adaptors / "rules_python"
        path = module / "python/extensions/python.bzl"
        scope = self._run(path, module)
        scope["python"].implementation(SimpleNamespace(modules=[]))
        files = _EXPORTED.findall(path.read_text(encoding="utf-8"))
        return {name: [f"//:{file}" for file in files] for name in scope["_host"].made}

    def _run(self, path: Path, module: Path) -> dict[str, Any]:
        if path in self._scopes:
            return self._scopes[path]
        scope = self._scopes[path] = _built_ins()

        def load(label: str, *names: str, **renamed: str) -> None:
            package, _, name = label.rpartition(":")
            folder = module / package.removeprefix("//") if package else path.parent
            loaded = self._run(folder / name, module)
            scope.update(
                {local: loaded[n] for local, n in ({n: n for n in names} | renamed).items()}
            )

        scope["load"] = load
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), scope)  # noqa: S102 # ours
        return scope


def _takes(symbol: Callable[..., Any], attribute: str) -> bool:
    """Named parameters need no trial; what a macro passes on is tried."""
    parameters = inspect.signature(symbol).parameters.values()
    if attribute in {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}:
        return True
    single = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind in single]
    try:
        symbol(**{"name": "any", attribute: None, **dict.fromkeys(needed, "any")})
    except Refused:
        return False
    return True


class Definition:
    """A rule, tag class or extension that an adaptor defines."""

    def __init__(self, **definition: Any) -> None:
        self.implementation = definition.get("implementation")
        self.made: list[str] = []
        self.attrs: Mapping[str, Any] = definition.get("attrs", {})
        self.tag_classes: Mapping[str, Definition] = definition.get("tag_classes", {})
        self.known = {*self.attrs, *_EVERY_RULE, *(_EVERY_TEST if definition.get("test") else ())}

    def __call__(self, **attributes: Any) -> None:
        if unknown := attributes.keys() - self.known:
            raise Refused(f"no attribute {', '.join(sorted(unknown))}")
        self.made.append(attributes["name"])


_EVERY_RULE = [
    "name",
    "visibility",
    "testonly",
    "tags",
    "target_compatible_with",
    "exec_properties",
]
_EVERY_TEST = ["args", "env", "size", "timeout", "shard_count", "flaky", "local"]


class _Anything:
    """Stands for a built-in whose value does not matter."""

    def __getattr__(self, name: str) -> Callable[..., _Anything]:
        return self

    def __call__(self, *arguments: Any, **keywords: Any) -> _Anything:
        return self


def _fail(*messages: object) -> None:
    raise Refused(" ".join(map(str, messages)))


def _built_ins() -> dict[str, Any]:
    anything = _Anything()
    names = [
        "Label",
        "DefaultInfo",
        "PyInfo",
        "attr",
        "depset",
        "json",
        "native",
        "select",
        "struct",
        "OutputGroupInfo",
    ]
    return {
        **dict.fromkeys(names, anything),
        **dict.fromkeys(["module_extension", "repository_rule", "rule", "tag_class"], Definition),
        "fail": _fail,
    }


def read_table(path: Path) -> dict[str, Any]:
    table = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(table, dict)
    return table
