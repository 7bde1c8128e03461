"""The lease that lets one release run at a time in each environment.

``lease.json`` is replaced only if it is still what was read (If-Match). A holder renews it; the
lease of one that crashed expires. On the machine where it crashed nobody has to wait: its process
is known to be gone.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from common.aws import S3Store
from infra.release.errors import LeaseLost, Refused, ReleaseError

_KEY = "lease.json"
_TRIES = 10


@dataclass(frozen=True)
class Holder:
    """The lease's holder, and when the lease expires (seconds since 1970)."""

    id: str
    who: str
    what: str  # as in "deploy sha256:…"
    since: float
    until: float
    process: str  # names a process for as long as its machine runs; "" where that is not known

    def is_gone(self, now_s: float) -> bool:
        """Whether the lease has expired, or its process is known to have ended."""
        return now_s >= self.until or _is_dead(self.process)


class Lease:
    """The right to move the alias. Use it as `with lease.held(...)`."""

    def __init__(
        self, store: S3Store, seconds: float, now: Callable[[], float] = time.time
    ) -> None:
        self._store, self._seconds, self._now = store, seconds, now
        self._guard = threading.Lock()
        self._holder: Holder | None = None
        self._etag: str | None = None

    def holder(self) -> Holder | None:
        """The run that holds the lease now, if there is one."""
        found, _ = self._read()
        return found if found and not found.is_gone(self._now()) else None

    @contextmanager
    def held(self, who: str, what: str, take_over: bool = False) -> Iterator[Holder | None]:
        """Holds the lease for the block; yields the previous holder, if its lease expired or was
        taken over.

        Raises:
            Refused: somebody else holds it; says who, since when, and how to take over.
        """
        before = self._acquire(who, what, take_over)
        stop = threading.Event()
        renewing = threading.Thread(target=self._keep, args=(stop,), name="lease", daemon=True)
        renewing.start()
        try:
            yield before
        finally:
            stop.set()
            renewing.join()
            with suppress(ReleaseError):  # it expires
                self._release()

    def check(self) -> None:
        """Renews the lease; if S3 does not answer, the lease is held until it expires.

        Raises:
            LeaseLost: another run took it.
            ReleaseError: it has ended, and S3 does not answer.
        """
        with self._guard:
            try:
                self._renew()
            except LeaseLost:
                raise
            except ReleaseError:
                if self._holder is None or self._now() > self._holder.until:
                    raise

    def _acquire(self, who: str, what: str, take_over: bool) -> Holder | None:
        for _ in range(_TRIES):
            before, etag = self._read()
            now = self._now()
            if before and not take_over and not before.is_gone(now):
                raise Refused(_occupied(before, now))
            mine = Holder(uuid.uuid4().hex, who, what, now, now + self._seconds, _this_process())
            data = _to_json(mine)
            if new := self._store.put(_KEY, data, etag):
                self._holder, self._etag = mine, new
                return before
        raise Refused("several runs want the lease at once: try again")

    def _keep(self, stop: threading.Event) -> None:
        while not stop.wait(self._seconds / 3):
            with self._guard, suppress(ReleaseError):  # `check` tells it to whom it concerns
                self._renew()

    def _renew(self) -> None:
        if self._holder is None:
            raise LeaseLost("the lease was lost: another run took over")
        renewed = replace(self._holder, until=self._now() + self._seconds)
        etag = self._store.put(_KEY, _to_json(renewed), self._etag)
        if etag is None:
            self._holder = None
            other, _ = self._read()
            raise LeaseLost(
                f"{other.who if other else 'somebody'} took over"
                f"{f' ({other.what})' if other else ''}: this run stops and touches nothing more"
            )
        self._holder, self._etag = renewed, etag

    def _release(self) -> None:
        with self._guard:
            if self._holder is not None:
                self._store.put(_KEY, b"{}\n", self._etag)
                self._holder = None

    def _read(self) -> tuple[Holder | None, str | None]:
        try:
            found, etag = self._store.read_tagged(_KEY)
        except KeyError:
            return None, None
        try:
            values = json.loads(found)
            return (Holder(**values) if values else None), etag
        except (ValueError, TypeError) as exc:
            raise ReleaseError(
                f"{self._store.url}/{_KEY} is unreadable ({exc}): delete it if nothing runs"
            ) from exc


def _occupied(holder: Holder, now: float) -> str:
    since = datetime.fromtimestamp(holder.since, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return (
        f"{holder.who} is running `{holder.what}` since {since} UTC, and holds the lease for "
        f"another {holder.until - now:.0f} s, renewed while it runs. Wait for it, or look at "
        "`bazel run //infra:status`; --take-over stops it at its next step and continues from there"
    )


def _to_json(holder: Holder) -> bytes:
    return f"{json.dumps(asdict(holder))}\n".encode()


def _this_process() -> str:
    pid = os.getpid()
    return f"{_machine()}/{pid}/{_started(pid)}" if _machine() else ""


def _is_dead(process: str) -> bool:
    machine, _, rest = process.rpartition("/")[0].rpartition("/")
    if not machine or machine != _machine():
        return False
    started = process.rpartition("/")[2]
    return not rest.isdecimal() or _started(int(rest)) != started


def _machine() -> str:
    """Identifies this boot of this machine and this container; "" outside Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}-{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Start time of a process in clock ticks; "" if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
