"""The runner behind `pytest_test` keeps Bazel's test protocol; each test runs it as Bazel would."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).absolute().parents[2]
RUNNER = ROOT / "tools" / "pytest_main.py"
FOUR = "".join(f"def test_{word}() -> None: pass\n" for word in ("one", "two", "three", "four"))


@dataclass(frozen=True)
class Outcome:
    code: int
    output: str
    cases: list[str]


Run = Callable[..., Outcome]


def command(source: Path, *options: str) -> list[str]:
    return [sys.executable, str(RUNNER), str(source), *options]


def environment(folder: Path, **bazel: str) -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if not name.startswith("TEST")}
    folder.joinpath("tmp").mkdir(exist_ok=True)
    return mine | {
        "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), *sys.path]),
        "TEST_TMPDIR": str(folder / "tmp"),
        "XML_OUTPUT_FILE": str(folder / "test.xml"),
        **bazel,
    }


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run(source: str, *options: str, **bazel: str) -> Outcome:
        file = tmp_path / "test_it.py"
        file.write_text(source)
        done = subprocess.run(
            command(file, *options),
            cwd=ROOT,
            env=environment(tmp_path, **bazel),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        report = tmp_path / "test.xml"
        cases = ElementTree.parse(report).iter("testcase") if report.exists() else ()
        return Outcome(done.returncode, done.stdout, [case.attrib["name"] for case in cases])

    return run


def test_passing_tests_are_reported_by_name(run: Run) -> None:
    outcome = run(FOUR)
    assert outcome.code == 0, outcome.output
    assert outcome.cases == ["test_one", "test_two", "test_three", "test_four"]


def test_a_failing_test_fails_the_target(run: Run) -> None:
    assert run("def test_it() -> None: assert 1 == 2").code == 1


def test_a_warning_is_an_error(run: Run) -> None:
    source = "import warnings\ndef test_it() -> None: warnings.warn('old')"
    assert run(source).code == 1


def test_a_file_without_tests_fails_instead_of_passing_by_mistake(run: Run) -> None:
    assert run("def tset_it() -> None: pass").code == 5


def test_an_unknown_marker_is_an_error(run: Run) -> None:
    source = "import pytest\n@pytest.mark.sloow\ndef test_it() -> None: pass"
    assert run(source).code != 0


def test_a_reason_for_skipping_is_shown(run: Run) -> None:
    source = "import pytest\npytest.skip('no terraform: apt install it', allow_module_level=True)"
    outcome = run(source)
    assert outcome.code == 0
    assert "no terraform: apt install it" in outcome.output


def test_shards_run_every_test_once_and_say_that_they_shard(run: Run, tmp_path: Path) -> None:
    status = tmp_path / "sharded"
    shard = {"TEST_TOTAL_SHARDS": "3", "TEST_SHARD_STATUS_FILE": str(status)}
    outcome = run(FOUR, TEST_SHARD_INDEX="0", **shard)
    assert outcome.code == 0, outcome.output
    assert outcome.cases == ["test_one", "test_four"]
    assert status.exists()


def test_a_shard_runs_whole_files(run: Run, tmp_path: Path) -> None:
    """Three files for two shards: the longest for one, the others for the other."""
    for name in ("test_other.py", "test_third.py"):
        (tmp_path / name).write_text(f"def {name.removesuffix('.py')}() -> None: pass\n")
    more = [str(tmp_path / name) for name in ("test_other.py", "test_third.py")]
    parts = []
    for shard in ("0", "1"):
        outcome = run(FOUR, *more, TEST_TOTAL_SHARDS="2", TEST_SHARD_INDEX=shard)
        assert outcome.code == 0, outcome.output
        parts.append(outcome.cases)
    assert parts == [
        ["test_one", "test_two", "test_three", "test_four"],
        ["test_other", "test_third"],
    ]


def test_a_file_finds_the_process_as_the_first_one_did(run: Run, tmp_path: Path) -> None:
    (tmp_path / "test_next.py").write_text(
        "import logging, os\n"
        "def test_next() -> None:\n"
        f"    assert os.getcwd() == {str(ROOT)!r}\n"
        "    assert logging.getLogger().level == logging.WARNING\n"
        "    assert not [h for h in logging.getLogger().handlers if h.name == 'left']\n"
    )
    source = (
        "import logging, os\n"
        "def test_leaves_traces() -> None:\n"
        "    os.chdir('/')\n"
        "    handler = logging.NullHandler()\n"
        "    handler.name = 'left'\n"
        "    logging.basicConfig(level='DEBUG', handlers=[handler], force=True)\n"
    )
    outcome = run(source, str(tmp_path / "test_next.py"))
    assert outcome.code == 0, outcome.output


def test_a_shard_that_is_left_without_tests_passes(run: Run) -> None:
    outcome = run("def test_it() -> None: pass", TEST_TOTAL_SHARDS="2", TEST_SHARD_INDEX="1")
    assert (outcome.code, outcome.cases) == (0, [])


def test_a_filter_chooses_tests_in_either_spelling(run: Run) -> None:
    assert run(FOUR, TESTBRIDGE_TEST_ONLY="two or three").cases == ["test_two", "test_three"]


def test_pytests_own_options_pass_through(run: Run) -> None:
    assert run(FOUR, "-k", "four").cases == ["test_four"]


def test_a_filter_that_matches_other_targets_only_passes(run: Run) -> None:
    assert run(FOUR, TESTBRIDGE_TEST_ONLY="absent").code == 0


def test_fail_fast_stops_at_the_first_failure(run: Run) -> None:
    source = "def test_a() -> None: assert 0\ndef test_b() -> None: pass"
    assert run(source, TESTBRIDGE_TEST_RUNNER_FAIL_FAST="1").cases == ["test_a"]


def test_the_users_home_is_out_of_reach(run: Run, tmp_path: Path) -> None:
    source = (
        "from pathlib import Path\nimport os\n"
        "def test_it() -> None:\n"
        "    assert Path.home().is_relative_to(os.environ['TEST_TMPDIR'])\n"
        "    assert 'XDG_CACHE_HOME' not in os.environ\n"
    )
    outcome = run(source, HOME="/somebody", XDG_CACHE_HOME="/somebody/.cache")
    assert outcome.code == 0, outcome.output
    assert list(tmp_path.joinpath("tmp").iterdir()) == []


def test_random_examples_are_the_same_in_every_run(run: Run) -> None:
    source = (
        "from hypothesis import settings\n"
        "def test_it() -> None:\n"
        "    assert settings().derandomize and settings().database is None\n"
    )
    outcome = run(source)
    assert outcome.code == 0, outcome.output


def test_leaving_the_process_is_no_success(run: Run) -> None:
    outcome = run("import os\ndef test_it() -> None: os._exit(0)")
    assert outcome.code != 0
    assert "left the process by os._exit" in outcome.output


def test_a_forked_child_may_leave_the_process(run: Run) -> None:
    source = (
        "import os\n"
        "def test_it() -> None:\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        os._exit(3)\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3\n"
    )
    outcome = run(source)
    assert outcome.code == 0, outcome.output


def test_a_timeout_shows_where_the_test_stood(tmp_path: Path) -> None:
    file, started = tmp_path / "test_it.py", tmp_path / "started"
    file.write_text(
        "import pathlib, time\n"
        "def test_hangs() -> None:\n"
        f"    pathlib.Path({str(started)!r}).touch()\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        command(file), cwd=ROOT, env=environment(tmp_path), stderr=subprocess.PIPE, text=True
    )
    wait_for(started)
    process.terminate()
    _, stderr = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "in test_hangs" in stderr


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)
