"""The training image's entry: ``bazel run //ml:train`` without Bazel.

Runs by its path under ``python3 -I``: no variable and no working folder chooses what is imported.
"""

import runpy
import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Hydra overrides, as for //ml:train."""
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    sys.argv[1:] = arguments
    runpy.run_module("ml.commands.train", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
