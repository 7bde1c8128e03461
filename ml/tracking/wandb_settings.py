"""Settings of W&B: where it may write, and whether its server can be reached.

Imports nothing of W&B, so that a training can ask.
"""

import netrc
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

FOLDER = "wandb"  # inside a run folder: everything that W&B writes
SYNCED = f"{FOLDER}/synced.json"  # where the run was sent to, once all of it was


@dataclass(frozen=True)
class Destination:
    """Whose run it becomes on the server.

    Attributes:
        project: made if it is missing.
        entity: a user or a team; None is the default of the key.
        group: what belongs together, such as the trials of a sweep.
        tags: for filtering.
        notes: a sentence for people.
    """

    project: str
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    notes: str | None = None


def has_key() -> bool:
    """Whether there is a key for the server, in WANDB_API_KEY or in ~/.netrc; it may be wrong."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def choose_mode(asked: str) -> str:
    """``online`` or ``offline``: auto is online where there is a key."""
    if asked == "auto":
        return "online" if has_key() else "offline"
    return asked


def environment(run_folder: Path) -> dict[str, str]:
    """Variables that keep everything W&B writes inside a run folder."""
    home = run_folder / FOLDER
    return {
        "WANDB_DIR": str(run_folder),  # W&B appends its own name
        "WANDB_DATA_DIR": str(home / "data"),
        "WANDB_ARTIFACT_DIR": str(home / "artifacts"),
        "WANDB_CACHE_DIR": str(home / "cache"),
        "WANDB_CONFIG_DIR": str(home / "config"),
        "WANDB_CREDENTIALS_FILE": str(home / "config" / "credentials.json"),
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
    }
