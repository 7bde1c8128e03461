"""Writes the small dataset for a build: train.bin and test.bin into the folder of the argument."""

import sys
from pathlib import Path

from tests.ml.data.small_dataset import write_dataset

if __name__ == "__main__":
    write_dataset(Path(sys.argv[1]), train=300, test=100)
