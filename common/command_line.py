"""Command lines of programs: the parser with its help, and types of arguments for argparse."""

import argparse
import math


def command_parser(
    target: str, description: str | None, epilog: str | None = None
) -> argparse.ArgumentParser:
    """A parser whose usage is `bazel run TARGET --`; its help keeps the lines of both texts."""
    return argparse.ArgumentParser(
        prog=f"bazel run {target} --",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def count(text: str) -> int:
    """Argument type: a whole number above 0."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text}")
    return number


def positive(text: str) -> float:
    """Argument type: a finite number above 0."""
    if not 0 < (number := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return number


def share(text: str) -> float:
    """Argument type: a share strictly between 0 and 1."""
    if not 0 < (number := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, got {text}")
    return number


def share_or_none(text: str) -> float:
    """Argument type: a share from 0 to below 1."""
    if not 0 <= (number := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to below 1, got {text}")
    return number
