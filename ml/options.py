"""What the programs' options and terminals have in common."""

from argparse import ArgumentTypeError

from rich.console import Console


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


def terminal(width: int = 120) -> Console:
    """As wide as it is; into a file or a pipe `width` columns, so that tables are not folded."""
    console = Console()
    return console if console.is_terminal else Console(width=width)
