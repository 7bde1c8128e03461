"""Console scripts of packages."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tools.offline.pypi_hub.entry_point import main_file

ENTRY_POINTS = """\
[console_scripts]
Tool = some.module:main
nested = some.module:App.run [fast]

[other.group]
Tool = another:thing
"""


@pytest.mark.skipif("PYGMENTIZE" not in os.environ, reason="built by Bazel")
def test_a_console_script_of_a_package_runs() -> None:
    program = Path(os.environ["PYGMENTIZE"]).absolute()
    done = subprocess.run([program, "-V"], capture_output=True, text=True)
    assert done.stdout.startswith("Pygments version"), done.stderr


def test_the_function_of_the_script_is_called() -> None:
    text = main_file(ENTRY_POINTS, "Tool")
    assert "from some.module import main\n" in text
    assert "sys.exit(main())" in text


def test_a_method_of_a_class_is_called_and_extras_are_no_part_of_it() -> None:
    text = main_file(ENTRY_POINTS, "nested")
    assert "from some.module import App\n" in text
    assert "sys.exit(App.run())" in text


@pytest.mark.parametrize(("text", "others"), [(ENTRY_POINTS, "Tool, nested"), ("", "")])
def test_a_script_that_is_not_there_is_an_error_that_lists_the_others(
    text: str, others: str
) -> None:
    with pytest.raises(LookupError, match=f"no console script tool, only: {others}$"):
        main_file(text, "tool")
