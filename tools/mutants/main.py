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
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from common.command_line import command_parser
from common.files import user_path, workspace_folder
from tools.mutants.mutants import NONE_CHOSEN, TIMED_OUT, Bench, Mutant, mutants


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


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # nothing runs at a fork
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the compiled form serves every mutant
    sys.dont_write_bytecode = False
    sys.exit(main(sys.argv[1:]))
