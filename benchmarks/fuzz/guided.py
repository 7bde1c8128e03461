"""Coverage-guided fuzzing: libFuzzer, through atheris, on one target in a separate process.

    python -m benchmarks.fuzz.guided benchmarks.fuzz.image_targets:CODEC [options of libFuzzer]

is that process: a crash, a hang or exhausted memory ends only it.
"""

import importlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from benchmarks.fuzz.targets import Target
from benchmarks.load.servers import ServerFailed
from common.programs import python_environment
from common.terminal import Progress

# Instrumented modules; instrumenting Pillow costs a second of start-up per megabyte.
_IMAGES = ("PIL", "common.images")
_REQUESTS = (
    *("python_multipart", "serve.http.bodies", "serve.server.protocol"),
    "uvicorn.protocols.http",
)
_INSTRUMENTED = {
    "CODEC": _IMAGES,
    "SMALL_PNG": _IMAGES,
    "INFERENCE": ("serve.http.bodies", "serve.http.tensors", "serve.http.open_inference"),
    "FEEDBACK": ("serve.http.bodies", "serve.http.routes"),
    "CAPTURES_READ": ("serve.capture.feedback",),
}
TARGETS = {
    "codec": "benchmarks.fuzz.image_targets:CODEC",
    "small_png": "benchmarks.fuzz.image_targets:SMALL_PNG",
    "bodies": "benchmarks.fuzz.request_targets:BODIES",
    "http_protocol": "benchmarks.fuzz.request_targets:HTTP_PROTOCOL",
    "inference": "benchmarks.fuzz.endpoint_targets:INFERENCE",
    "feedback": "benchmarks.fuzz.endpoint_targets:FEEDBACK",
    "captures": "benchmarks.fuzz.endpoint_targets:CAPTURES_READ",
}
_MEMORY_MB, _TIMEOUT_S = 1024, 10  # limits of the process, and of one input
_FOUND = ("crash-*", "timeout-*", "oom-*", "leak-*")  # as libFuzzer names its files
_NO_LIMIT_S = 2**31 - 1


@dataclass
class Guided:
    target: str
    runs: int = 0
    first_coverage: int = 0  # edges that the seeds reach
    coverage: int = 0
    seeds: int = 0
    corpus: int = 0  # inputs each of which reaches something unique
    peak_mb: int = 0
    found: dict[str, bytes] = field(default_factory=dict)  # the failing input, by its file's name
    said: str = ""  # description of the failure

    @property
    def holds(self) -> bool:
        """Whether nothing was found."""
        return not self.found


def run_guided(
    target: str, *, seconds: int, runs: int, seed: int, corpus: Path | None, progress: Progress
) -> Guided:
    """Runs libFuzzer until the time or number of runs is reached, or something is found.

    Args:
        target: one of `TARGETS`, or another ``module:NAME``.
        seconds: 0: no limit.
        runs: 0: no limit.
        corpus: folder of earlier inputs, to which new ones are added.

    Raises:
        ServerFailed: the process could not start.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for one in ("corpus", "found"):
            (folder / one).mkdir()
        if corpus is not None:
            corpus.mkdir(parents=True, exist_ok=True)
        command = [
            *(sys.executable, "-m", "benchmarks.fuzz.guided", target),
            f"-max_total_time={seconds or _NO_LIMIT_S}",
            f"-runs={runs or -1}",
            f"-seed={seed or 1}",  # libFuzzer takes 0 as random
            f"-artifact_prefix={folder / 'found'}/",
            *(f"-rss_limit_mb={_MEMORY_MB}", f"-timeout={_TIMEOUT_S}"),
            *("-print_final_stats=1", str(corpus or folder / "corpus")),
        ]
        guided = Guided(target)
        lines = _followed(command, guided, progress)
        for pattern in _FOUND:
            for path in (folder / "found").glob(pattern):
                guided.found[path.name] = path.read_bytes()
    if not guided.runs and not guided.found:
        raise ServerFailed(f"{target} was not fuzzed: {lines[-1] if lines else 'nothing was said'}")
    guided.said = "\n".join(line for line in lines if not line.startswith(_NOISE))
    return guided


_NOISE = ("INFO: ", "#", "WARNING: Failed to find function", "NEW_FUNC", "stat::")
_STEP = re.compile(r"#(\d+)\s+(\S+)\s.*?cov: (\d+).*? corp: (\d+)")
_LAST = 60  # lines kept


def _followed(command: Sequence[str], guided: Guided, progress: Progress) -> list[str]:
    """Reads the process's output until it ends; returns the last lines."""
    lines: list[str] = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # exceptions are printed to one, everything else to the other
        text=True,
        errors="replace",
        env=python_environment(),
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if step := _STEP.match(line):
                guided.runs, guided.coverage = int(step[1]), int(step[3])
                guided.corpus = int(step[4])
                if step[2] == "INITED":
                    guided.first_coverage, guided.seeds = guided.coverage, guided.corpus
                progress.update(guided.runs, detail=f"{guided.coverage} edges reached")
            elif runs := re.match(r"stat::number_of_executed_units:\s*(\d+)", line):
                guided.runs = int(runs[1])
            elif peak := re.match(r"stat::peak_rss_mb:\s*(\d+)", line):
                guided.peak_mb = int(peak[1])
            lines = [*lines[1 - _LAST :], line.rstrip()]
    return lines


def find(address: str) -> Target:
    """The target at ``module:NAME``."""
    module, _, name = address.partition(":")
    target: Target = getattr(importlib.import_module(module), name)
    return target


def _main(arguments: Sequence[str]) -> None:
    import atheris

    name = arguments[0].partition(":")[2]
    with atheris.instrument_imports(include=list(_INSTRUMENTED.get(name, _REQUESTS))):
        target = find(arguments[0])
    with tempfile.TemporaryDirectory() as folder:
        options = [*arguments[1:], f"-max_len={target.longest}"]
        options += [_words(Path(folder), target.words)] if target.words else []
        # LibFuzzer only reads the last folder.
        seeds = Path(folder) / "seeds"
        seeds.mkdir()
        for number, data in enumerate(target.seeds()):
            (seeds / str(number)).write_bytes(data)

        def mutate(data: bytes, longest: int, seed: int) -> bytes:
            assert target.mutate is not None
            return target.mutate(data, longest, Random(seed), atheris.Mutate)

        extra = {} if target.mutate is None else {"custom_mutator": mutate}
        atheris.Setup(["fuzz", *options, str(seeds)], target.call, **extra)
        atheris.Fuzz()  # does not return


def _words(folder: Path, words: Sequence[bytes]) -> str:
    """A dictionary file for libFuzzer, as its option."""
    path = folder / "words"
    path.write_text("".join(f'"{"".join(_escaped(word))}"\n' for word in words))
    return f"-dict={path}"


def _escaped(word: bytes) -> Iterator[str]:
    return (f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    _main(sys.argv[1:])
