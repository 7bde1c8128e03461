"""Mutation testing: `bazel run //tools:mutants -- infra/release/verdict`.

Makes small changes (mutants) in a copy of the modules, one at a time, and runs the tests of their
folder: a mutant that fails a test is killed, the others are listed. A survivor means a missing
test, unnecessary code, or an equivalent program.

  bazel run //tools:mutants -- common/model/artifact.py --tests tests/common/model/test_artifact.py
  bazel run //tools:mutants -- ml/registry -k 'not s3' --sample 200 --seed 1 --json report.json
  bazel run //tools:mutants -- ml/registry -k 'not s3' --again report.json   # only its survivors

Exit codes: 0 done, 1 the score is below --fail-under, 2 it cannot start.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import gc
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.provider import OperatorProvider

from common.command_line import command_parser
from common.files import user_path, workspace_folder
from common.terminal import Progress


@dataclass(frozen=True)
class Result:
    """The outcome of one mutant: killed, timed out, or survived."""

    file: str
    line: int
    operator: str
    outcome: str
    diff: str


def main(argv: Sequence[str]) -> int:
    options = _parse(argv)
    os.chdir(workspace_folder())
    files = [file for path in options.paths for file in _sources(Path(path))]
    named = options.tests or [_mirror(path) for path in options.paths]
    if missing := [path for path in [*options.paths, *named] if not Path(path).exists()]:
        print(f"mutants: {missing[0]} does not exist; --tests names tests", file=sys.stderr)
        return 2
    tests = [test for path in named for test in _sources(Path(path), "test_*.py")]
    made = [m for file in files for m in mutants(file, Path(file).read_text(encoding="utf-8"))]
    chosen = _chosen(made, options)
    print(f"{len(made)} mutants, {len(chosen)} to try", flush=True)
    with tempfile.TemporaryDirectory(prefix="kiln-mutants-") as folder:
        bench = Bench(Path(folder, "tree"), Path(folder, "scratch"), options.k)
        bench.scratch.mkdir()
        _copy(bench.tree)
        results = _try_all(bench, tests, chosen, options.timeout_s)
    if results is None:
        return 2
    if options.json:
        found = [asdict(result) for result in results]
        document = {"made": len(made), "sample": options.sample, "seed": options.seed}
        options.json.write_text(json.dumps(document | {"results": found}, indent=1) + "\n")
    print("\n\n".join(r.diff for r in results if r.outcome == "survived"))
    print("\n" + table(results))
    return 1 if _score(results) < options.fail_under else 0


def table(results: Iterable[Result]) -> str:
    """A row per file, then the total."""
    rows = defaultdict[str, list[Result]](list)
    for result in results:
        rows[result.file].append(result)
    rows["total"] = [result for file in [*rows] for result in rows[file]]
    width = max(map(len, rows))
    head = f"{'file':{width}}  mutants  killed  timed out  survived   score"
    return "\n".join([head, *(_line(f"{file:{width}}", rows[file]) for file in rows)])


def _line(name: str, results: Sequence[Result]) -> str:
    outcomes = [result.outcome for result in results]
    killed, late, left = map(outcomes.count, ("killed", "timed out", "survived"))
    return (
        f"{name}  {len(results):7}  {killed:6}  {late:9}  {left:8}  {100 * _score(results):5.1f} %"
    )


def _score(results: Sequence[Result]) -> float:
    return sum(result.outcome != "survived" for result in results) / max(1, len(results))


def _try_all(
    bench: Bench, tests: Sequence[str], chosen: Sequence[Mutant], limit_s: float | None
) -> list[Result] | None:
    """The outcome of each mutant; None if the tests fail on the original."""
    log, start = bench.scratch / "log", time.monotonic()
    if code := bench.load_packages(tests, log):
        print(log.read_text(errors="replace"), file=sys.stderr)
        print(f"mutants: on the original source the tests end with {code}, not 0", file=sys.stderr)
        return None
    limit_s = limit_s or 5 + 4 * (time.monotonic() - start)
    results, kills = list[Result](), Counter[tuple[str, str]]()
    for number, mutant in enumerate(chosen, start=1):
        file = bench.tree / mutant.file
        whole = file.read_bytes()
        file.write_text(mutant.source, encoding="utf-8")
        # Python identifies compiled files by time in whole seconds and size, which a mutant may not
        # change.
        os.utime(file, (number, number))
        outcome = "survived"
        for test in sorted(tests, key=partial(_usefulness, mutant.file, kills)):
            if (code := bench.run([test], limit_s)) not in (0, NONE_CHOSEN):
                kills[mutant.file, test] += 1
                outcome = "timed out" if code == TIMED_OUT else "killed"
                break
        file.write_bytes(whole)
        results.append(Result(mutant.file, mutant.line, mutant.operator, outcome, mutant.diff))
        place = f"{mutant.file}:{mutant.line} {mutant.operator}"
        print(f"{number}/{len(chosen)} {outcome}: {place}", flush=True)
    return results


def _usefulness(file: str, kills: Mapping[tuple[str, str], int], test: str) -> tuple[int, bool]:
    """Sorts tests that killed other mutants of the file first: most mutants need one of them."""
    return -kills[file, test], Path(test).name != f"test_{Path(file).name}"


def _chosen(made: Sequence[Mutant], options: argparse.Namespace) -> list[Mutant]:
    if options.again:
        report = json.loads(options.again.read_text())
        left = {r["diff"] for r in report["results"] if r["outcome"] == "survived"}
        return [mutant for mutant in made if mutant.diff in left]
    if options.sample and options.sample < len(made):
        places = sorted(random.Random(options.seed).sample(range(len(made)), options.sample))
        return [made[place] for place in places]
    return list(made)


def _sources(path: Path, pattern: str = "*.py") -> list[str]:
    return [str(file) for file in (sorted(path.glob(pattern)) if path.is_dir() else [path])]


def _mirror(path: str) -> str:
    """Tests mirror the tree: tests/serve/test_app.py tests serve/app.py."""
    file = Path("tests", path)
    return str(file if file.suffix != ".py" else file.with_name(f"test_{file.name}"))


def _copy(tree: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(os.path.isfile, listed.stdout.split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, tree / name)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = command_parser("//tools:mutants", __doc__)
    parser.add_argument("paths", nargs="+", help="folders (not recursive) and modules")
    parser.add_argument("--tests", nargs="+", help="default: the mirrored folders in tests/")
    parser.add_argument("-k", default="", metavar="EXPRESSION", help="pytest's -k")
    parser.add_argument("--sample", type=int, metavar="N", help="sample N mutants")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument(
        "--timeout-s", type=float, help="timeout per mutant (default: from the tests' duration)"
    )
    parser.add_argument(
        "--json", type=_typed, metavar="FILE", help="write all results to this file"
    )
    parser.add_argument(
        "--again", type=_typed, metavar="FILE", help="only the survivors in this file"
    )
    parser.add_argument("--fail-under", type=float, default=0, metavar="SHARE", help="0 to 1")
    return parser.parse_args(argv)


def _typed(name: str) -> Path:
    return user_path(name).absolute()


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
    return [path for path in paths if not Path(path, "tools", "mutants", "main.py").exists()]


def _packages(tree: Path) -> list[str]:
    """Imported modules that are not the tree's."""
    ours = {path.name.removesuffix(".py") for path in tree.iterdir()}
    return [
        name
        for name, module in sorted(sys.modules.items())
        if name.partition(".")[0] not in ours | {"__main__", "conftest"}
        and not str(getattr(module, "__file__", None) or "").startswith(str(tree))
    ]


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # nothing runs at a fork
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the compiled form serves every mutant
    sys.dont_write_bytecode = False
    sys.exit(main(sys.argv[1:]))
