"""Several observers of requests as one."""

import logging

from serve.call import Call, Observer

logger = logging.getLogger(__name__)


class Observers:
    """An `Observer` that tells others, in their order; a mistake of one is logged once."""

    def __init__(self) -> None:
        self.first: Observer | None = None  # the service's own, which `renew` replaces
        self._added: tuple[Observer, ...] = ()
        self._failed: set[int] = set()

    def add(self, observer: Observer) -> None:
        """From now on it is told, too."""
        self._added = (*self._added, observer)

    def __call__(self, call: Call, method: str, path: str) -> None:
        for observer in (self.first, *self._added) if self.first else self._added:
            try:
                observer(call, method, path)
            except Exception:
                self._report(observer)

    def _report(self, observer: Observer) -> None:
        if id(observer) not in self._failed:
            self._failed.add(id(observer))
            logger.exception(
                "an observer of requests failed; it is not logged again",
                extra={"observer": repr(observer)},
            )
