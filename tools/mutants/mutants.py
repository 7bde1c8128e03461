"""The mutants of a module, and the tests that should detect them.

A mutant is the source with one small change. Cosmic Ray's operators generate them. A binary
operator is replaced once, a comparison by its neighbour and its opposite: other replacements mostly
raise a TypeError, which inflates the score. Tests of one tree run in forked processes, so that
packages are imported once.
"""

from __future__ import annotations

import ast
import difflib
import gc
import importlib
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.provider import OperatorProvider

from common.terminal import Progress

_BINARY = """
    Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Div Mod_Mul Pow_Mul BitOr_BitAnd BitAnd_BitOr
    BitXor_BitAnd RShift_LShift LShift_RShift
"""
_COMPARISON = """
    Lt_LtE Lt_GtE LtE_Lt LtE_Gt Gt_GtE Gt_LtE GtE_Gt GtE_Lt
    Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is
"""
OPERATORS = (
    *(f"ReplaceBinaryOperator_{pair}" for pair in _BINARY.split()),
    *(f"ReplaceComparisonOperator_{pair}" for pair in _COMPARISON.split()),
    *(f"ReplaceUnaryOperator_{pair}" for pair in ("USub_UAdd", "Invert_Not", "Delete_Not")),
    "AddNot",
    "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "ExceptionReplacer",
    "NumberReplacer",
    "RemoveDecorator",
    "ZeroIterationForLoop",
)

Place = tuple[int, int]  # line from 1, column from 0


@dataclass(frozen=True)
class Mutant:
    """One change in one file."""

    file: str
    line: int
    operator: str
    source: str  # the complete file
    diff: str


def mutants(file: str, source: str) -> Iterator[Mutant]:
    """All mutants that differ as programs: none in annotations, no duplicates."""
    annotations, known = _annotations(source), {ast.dump(ast.parse(source))}
    provider: Any = OperatorProvider()
    for name in OPERATORS:
        operator: Any = provider[name]()
        places = (
            start
            for node in ast_nodes(get_ast(source))
            for start, _ in operator.mutation_positions(node)
        )
        for occurrence, place in enumerate(places):
            if any(start <= place < end for start, end in annotations):
                continue
            try:
                changed = mutate_code(source, operator, occurrence)
                meaning = ast.dump(ast.parse(changed))
            except (AttributeError, SyntaxError):  # Cosmic Ray cannot handle `except (a.B, c.D):`
                continue
            if meaning not in known:
                known.add(meaning)
                yield Mutant(file, place[0], name, changed, _diff(file, source, changed))


def _annotations(source: str) -> list[tuple[Place, Place]]:
    """Ranges of annotations, which no program reads: from, and before."""
    found: list[ast.expr | None] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arg | ast.AnnAssign):
            found.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(node.returns)
    return [
        ((n.lineno, n.col_offset), (n.end_lineno or n.lineno, n.end_col_offset or 0))
        for n in found
        if n
    ]


def _diff(file: str, before: str, after: str) -> str:
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"a/{file}", f"b/{file}", lineterm="", n=1
    )
    return "\n".join(lines)


NONE_CHOSEN, TIMED_OUT = 5, -1
_OPTIONS = (
    "-x -q --tb=short -p no:cacheprovider --import-mode=importlib"
    # Hypothesis has been imported already.
    " -W ignore::pytest.PytestAssertRewriteWarning"
)


@dataclass(frozen=True)
class Bench:
    """A tree of files, and the tests that should detect mutants in it.

    Attributes:
        scratch: a folder for files that the tests write.
        chosen: pytest's `-k`.
    """

    tree: Path
    scratch: Path
    chosen: str = ""

    def run(self, tests: Sequence[str], timeout_s: float, log: Path | None = None) -> int:
        """Pytest's exit code, or TIMED_OUT; any but 0 and NONE_CHOSEN: the tests detected it."""
        child = os.fork()
        if child == 0:
            try:
                self._test(tests, log)
            finally:
                os._exit(70)  # unreachable unless pytest itself is broken
        return _wait(child, timeout_s)

    def load_packages(self, tests: Sequence[str], log: Path) -> int:
        """Runs the tests once, then imports the packages that they imported; returns the exit
        code.
        """
        code = self.run(tests, 3600, log)
        names = self.scratch / "modules"
        for name in names.read_text().split() if names.exists() else ():
            with suppress(Exception), warnings.catch_warnings(action="ignore"):
                importlib.import_module(name)
        gc.freeze()  # pytest collects garbage at its end, and would traverse all of this
        return code

    def _test(self, tests: Sequence[str], log: Path | None) -> None:
        os.setsid()  # a process that hangs is killed with its children
        out = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.path[:] = [str(self.tree), *_without_trees(sys.path)]
        sys.modules.pop("common.terminal", None)  # the tree's own modules, with the mutant
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
        os.environ["HOME"] = str(self.scratch)
        os.chdir(self.tree)
        import pytest
        from hypothesis import Phase, settings

        # Any failure will do: minimal examples are not searched.
        phases = (Phase.explicit, Phase.generate)
        alike = settings(derandomize=True, database=None, deadline=None, phases=phases)
        settings.register_profile("mutants", alike)
        settings.load_profile("mutants")
        chosen = ["-k", self.chosen] if self.chosen else []
        code = pytest.main(
            [*_OPTIONS.split(), f"--basetemp={self.scratch / 'pytest'}", *chosen, *tests]
        )
        if not (names := self.scratch / "modules").exists():
            names.write_text("\n".join(_packages(self.tree)))
        sys.stdout.flush()
        os._exit(int(code))


def _wait(child: int, timeout_s: float) -> int:
    end = time.monotonic() + timeout_s
    with Progress("running the tests"):  # its thread is not alive in a fork
        while time.monotonic() < end:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return TIMED_OUT


def _without_trees(paths: Iterable[str]) -> list[str]:
    """Removes folders with this program from the path: modules must come from the tree."""
    return [path for path in paths if not Path(path, "tools", "mutants", "mutants.py").exists()]


def _packages(tree: Path) -> list[str]:
    """Imported modules that are not the tree's."""
    ours = {path.name.removesuffix(".py") for path in tree.iterdir()}
    return [
        name
        for name, module in sorted(sys.modules.items())
        if name.partition(".")[0] not in ours | {"__main__", "conftest"}
        and not str(getattr(module, "__file__", None) or "").startswith(str(tree))
    ]
