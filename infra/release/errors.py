"""Errors of a release, and the exit codes that scripts see."""

DONE = 0
REFUSED = 1
UNUSABLE = 2  # the input, the account or the network
HELD = 10
ROLLED_BACK = 20
NOT_VERIFIED = 30
INTERRUPTED = 130  # as a shell's for Ctrl-C


class ReleaseError(Exception):
    """Asked for something that cannot be; the message says what to do."""

    exit_code = UNUSABLE


class Refused(ReleaseError):
    """Understood, and declined: a check did not pass, or somebody else is at it."""

    exit_code = REFUSED


class RolledBackBefore(Refused):
    """The image was released and rolled back; a script that repeats itself must not do it again."""

    exit_code = ROLLED_BACK


class LeaseLost(Refused):
    """Another run took over: this one must not touch anything any more."""


class NotVerified(ReleaseError):
    """The alias was moved, and what it answers afterwards is not what it should."""

    exit_code = NOT_VERIFIED
