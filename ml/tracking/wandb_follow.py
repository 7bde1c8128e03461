"""Mirrors a run folder to W&B, in a process of its own.

Started as ``python -m ml.tracking.wandb_follow FOLDER online|offline DESTINATION``. It says where
it stands by lines on its output, ``connecting``, ``mirroring URL``, ``failed REASON`` and ``done
URL``, and goes on until its input ends: after the word ``finished`` the run came to its end, else
it broke.
"""

import json
import os
import sys
import threading
from pathlib import Path

from common.files import write_whole
from ml.runs.folder import RunFolder
from ml.runs.provenance import read_provenance
from ml.tracking.wandb_settings import FOLDER, SYNCED, Destination

_LOOK_S = 1.0  # between two looks at the folder


def main() -> None:
    """Follows until the end of the input."""
    folder, mode = RunFolder(Path(sys.argv[1])), sys.argv[2]
    destination = Destination(**json.loads(sys.argv[3]))
    os.nice(5)  # the training comes first
    ended, words = threading.Event(), list[str]()
    threading.Thread(target=_listen, args=(words, ended), daemon=True).start()
    while "started" not in read_provenance(folder) and not ended.wait(_LOOK_S):
        pass  # what the run is made from is not known yet
    from ml.tracking.wandb_mirror import WandbError, WandbMirror, remove_copies

    _say("connecting")
    try:
        mirror = WandbMirror(folder, destination, online=mode == "online")
        _say("mirroring", mirror.url)
        while not ended.wait(_LOOK_S):
            mirror.catch_up()
        mirror.catch_up()
        if succeeded := words == ["finished"]:
            mirror.conclude()
        mirror.finish(succeeded=succeeded)
    except WandbError as exc:
        _say("failed", str(exc))
        sys.exit(1)
    except Exception as exc:  # whatever W&B's client comes upon; the details are in mirror.log
        _say("failed", f"{type(exc).__name__} in W&B's client, see {folder.path / FOLDER}")
        raise
    if mode == "online":
        remove_copies(folder)
        if succeeded:
            write_whole(folder.path / SYNCED, json.dumps({"url": mirror.url}) + "\n")
    _say("done", mirror.url)


def _listen(words: list[str], ended: threading.Event) -> None:
    words += sys.stdin.read().split()
    ended.set()


def _say(state: str, detail: str | None = None) -> None:
    print(state, detail or "", flush=True)


if __name__ == "__main__":
    main()
