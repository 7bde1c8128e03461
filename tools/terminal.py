"""Where programs print tables: in a terminal, or into a pipe."""

from rich.console import Console


def terminal(width: int = 120, *, stderr: bool = False) -> Console:
    """As wide as it is; into a file or a pipe `width` columns, so that tables are not folded."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=width)
