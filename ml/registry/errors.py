"""What can go wrong with a registry, and the exit code that a script sees."""


class RegistryError(Exception):
    """Asked for something that cannot be; the message says what to do. Nothing was changed.

    No ValueError: those are what a damaged object is noticed by.
    """

    exit_code = 2


class StoreError(RegistryError):
    """The folder or bucket cannot be used."""


class Refused(RegistryError):
    """Understood, and declined: a gate did not pass."""

    exit_code = 1


class Conflict(Refused):
    """Somebody else was faster; the message says who, and what to do."""


class Damaged(Refused):
    """What is stored is not what was written."""
