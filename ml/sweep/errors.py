"""What a user can get wrong about a sweep."""


class SweepError(ValueError):
    """The sweep cannot start as it was asked for: nothing was trained; the message says what to
    do."""
