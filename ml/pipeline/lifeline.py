"""Ends a stage whose DVC was killed: else it would go on unseen, beside the next attempt."""

import os
import signal
import threading
import time


def die_with_parent(interval_s: float = 0.5) -> None:
    """Ends this process, as a kill does, when the process that started it is gone.

    Stages can be killed at any moment, so this is safe; it works wherever there are processes.
    """
    parent = os.getppid()
    threading.Thread(target=_watch, args=(parent, interval_s), daemon=True).start()


def _watch(parent: int, interval_s: float) -> None:
    while os.getppid() == parent:
        time.sleep(interval_s)
    os.kill(os.getpid(), signal.SIGKILL)
