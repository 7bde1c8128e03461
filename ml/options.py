"""What the programs' options have in common."""

from argparse import ArgumentTypeError


def count(text: str) -> int:
    """Type of an option that is a whole number above 0."""
    if (number := int(text)) < 1:
        raise ArgumentTypeError(f"expected a whole number above 0, got {text}")
    return number


def share(text: str) -> float:
    """Type of an option that lies between 0 and 1, without both."""
    if not 0 < (number := float(text)) < 1:
        raise ArgumentTypeError(f"expected a share between 0 and 1, got {text}")
    return number
