"""Errors of a release, and the exit codes that scripts see."""

DONE = 0
REFUSED = 1
UNUSABLE = 2  # the input, the account or the network
HELD = 10
ROLLED_BACK = 20
NOT_VERIFIED = 30
INTERRUPTED = 130  # as a shell's for Ctrl-C


class ReleaseError(Exception):
    """The request cannot be carried out; the message says what to do."""

    exit_code = UNUSABLE


class Refused(ReleaseError):
    """The request was refused: a check failed, or another run is active."""

    exit_code = REFUSED


class RolledBackBefore(Refused):
    """The image was rolled back the last time; a repeated script must not release it again."""

    exit_code = ROLLED_BACK


class LeaseLost(Refused):
    """Another run took over: this one must change nothing more."""


class NotVerified(ReleaseError):
    """The alias was moved, but callers do not get the expected answers."""

    exit_code = NOT_VERIFIED
