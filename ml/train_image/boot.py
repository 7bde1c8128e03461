"""The training image's entry point: ``bazel run //ml:train`` without Bazel.

Run by path under ``python3 -I``, so neither variables nor the working directory affect imports.
"""

import runpy
import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Takes Hydra overrides, as for //ml:train."""
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    sys.argv[1:] = arguments
    runpy.run_module("ml.commands.train", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
