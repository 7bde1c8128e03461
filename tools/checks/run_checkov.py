"""Checkov as a program: its package declares no entry point, only a script with these lines."""

import sys

from checkov.main import Checkov

if __name__ == "__main__":
    sys.exit(Checkov().run())
