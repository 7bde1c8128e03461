"""Download one file over HTTP(S) with honest limits. Standard library alone."""

from __future__ import annotations

import http.client
import queue
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from ml.data.source import Progress, SourceError

# Name look-up, connection and headers together: a machine without a way out hears it this soon.
OPEN_LIMIT_S = 10.0
_READ_LIMIT_S = 30.0  # silence in the middle of a body
_BLOCK = 1 << 20


def download(
    url: str, target: Path, size: int, progress: Progress, *, open_limit_s: float = OPEN_LIMIT_S
) -> None:
    """Write the body of ``url`` to ``target``; whoever calls checks it against a hash.

    Raises:
        SourceError: not reachable in time, an error status, an interrupted body, or more than
            ``size`` bytes.
    """
    try:
        with _open(url, open_limit_s) as response, target.open("wb") as file:
            done = 0
            while block := response.read1(_BLOCK):  # what is there: a slow line is not silent
                done += len(block)
                if done > size:
                    raise SourceError(f"{url} sends more than the expected {size} bytes")
                file.write(block)
                progress.step(f"downloading {target.name}", done / 1e6, size / 1e6)
    except (OSError, http.client.HTTPException) as exc:
        raise SourceError(f"{url} broke off: {_reason(exc)}") from exc


def _open(url: str, limit_s: float) -> Any:
    """The response with its headers. In a thread, for a name look-up has no limit of its own."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def open_url() -> None:
        try:
            answer = urllib.request.urlopen(url, timeout=_READ_LIMIT_S)  # nosec B310 # https, pinned
            answers.put(answer)
        except Exception as exc:  # handed to the thread that waits
            answers.put(exc)

    if not url.startswith(("http://", "https://")):
        raise SourceError(f"{url} is not an http(s) address")
    threading.Thread(target=open_url, daemon=True).start()
    try:
        answer = answers.get(timeout=limit_s)
    except queue.Empty:
        raise SourceError(f"{url} did not answer within {limit_s:g} s") from None
    if isinstance(answer, urllib.error.HTTPError):
        answer.close()
        raise SourceError(f"{url} answered {answer.code} {answer.reason}")
    if isinstance(answer, Exception):
        raise SourceError(f"{url} is not reachable: {_reason(answer)}") from answer
    return answer


def _reason(exc: BaseException) -> str:
    return str(getattr(exc, "reason", "") or exc or type(exc).__name__).replace("\n", " ")
