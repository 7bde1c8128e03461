"""What can go wrong around Terraform, and the exit code that a script sees."""


class TerraformError(Exception):
    """The message says what happened and what to do."""

    exit_code = 2


class TerraformMissing(TerraformError):
    """The program is not on this machine."""


class TerraformFailed(TerraformError):
    """Terraform ran and refused; the message has its own words."""

    exit_code = 1


class StateLocked(TerraformFailed):
    """Somebody else works on the same state; the message says who, since when, and what to do."""
