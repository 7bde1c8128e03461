"""Lambda's SIGTERM, some 300 ms before the process is killed.

Apart from what the handler imports: numpy starts threads, and the signal has to be blocked before.
"""

import os
import signal
import threading
from collections.abc import Callable


def block_sigterm() -> None:
    """Before other threads are started, which inherit it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def at_sigterm(last: Callable[[], object]) -> None:
    """Has a thread wait for the signal, call `last`, and then end the process by the signal."""

    def wait() -> None:
        signal.sigwait({signal.SIGTERM})
        try:
            last()
        finally:
            # Sent to this thread, the only one that takes it; nobody has set a handler.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="sigterm", daemon=True).start()
