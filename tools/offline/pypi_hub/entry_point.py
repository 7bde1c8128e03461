"""Write the main file of a console script; arguments: entry_points.txt, script, output."""

from __future__ import annotations

import sys
from configparser import ConfigParser
from pathlib import Path

_MAIN = """\
import sys

from {module} import {function}

if __name__ == "__main__":
    sys.exit({call}())
"""


def main_file(entry_points: str, script: str) -> str:
    """The program behind ``script``.

    Raises:
        LookupError: the package has no such script; the message lists those it has.
    """
    parser = ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
    parser.read_string(entry_points)
    scripts = dict(parser["console_scripts"]) if parser.has_section("console_scripts") else {}
    if script not in scripts:
        raise LookupError(f"no console script {script}, only: {', '.join(sorted(scripts))}")
    module, _, call = scripts[script].partition("[")[0].strip().partition(":")
    return _MAIN.format(module=module, function=call.partition(".")[0], call=call)


def main() -> int:
    entry_points, script, output = sys.argv[1:]
    try:
        text = main_file(Path(entry_points).read_text(encoding="utf-8"), script)
    except LookupError as error:
        print(f"kiln: error: {error}", file=sys.stderr)
        return 1
    Path(output).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
