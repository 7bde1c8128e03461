"""Advisories that are known and let pass: tools/checks/accepted.toml."""

from __future__ import annotations

import tomllib
from datetime import date

ACCEPTED = "tools/checks/accepted.toml"


class AcceptedError(Exception):
    """The file is of no use; the message says where."""


def read_accepted(text: str, today: date) -> dict[str, str]:
    """Advisory → reason, of those whose last day is not over.

    Raises:
        AcceptedError: an entry is not of the form that the file's head shows.
    """
    try:
        entries = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise AcceptedError(f"{ACCEPTED} is no TOML: {exc}") from exc
    reasons = {}
    for advisory, entry in entries.items():
        match entry:
            case {"reason": str(reason), "until": date() as until} if reason.strip():
                if today <= until:
                    reasons[advisory] = reason
            case _:
                form = 'reason = "…" and until = 2027-01-31'
                raise AcceptedError(f"{ACCEPTED}: {advisory} needs {form}")
    return reasons
