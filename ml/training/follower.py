"""A further process of a distributed training, see `ml.training.distribution`."""

import os
import sys
import threading
from pathlib import Path

from ml.runs.folder import RunFolder
from ml.training.distribution import LocalRanks, leave_group
from ml.training.fitting import follow


def _main() -> None:
    rank, size, port = map(int, sys.argv[1:4])
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    follow(RunFolder(Path(sys.argv[4])), LocalRanks(rank, size, port))
    leave_group()


def _end_with_the_first() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    _main()
