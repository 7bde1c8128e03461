"""Where an alias leads is noted, whatever becomes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from infra.twin.findings import Traffic, watched_alias
from tests.helpers.waiting import wait_until


class _Lambda:
    """A function that is gone for a while."""

    class exceptions:
        class ResourceNotFoundException(Exception):
            pass

    def __init__(self, versions: Iterator[str | None]) -> None:
        self._versions = versions

    def get_alias(self, **names: str) -> dict[str, Any]:
        version = next(self._versions)
        if version is None:
            raise self.exceptions.ResourceNotFoundException
        return {"FunctionVersion": version}


def test_a_function_that_is_destroyed_and_made_anew_is_seen_again() -> None:
    def versions() -> Iterator[str | None]:
        yield from ("3", None, None)
        while True:
            yield "1"

    traffic = Traffic()
    with watched_alias(_Lambda(versions()), "kiln-dev", "live", traffic):
        wait_until(lambda: len(traffic.routings) == 2)
    assert [routing.weights for routing in traffic.routings] == [{"3": 1}, {"1": 1}]


def test_a_copy_of_what_was_seen_grows_no_more() -> None:
    traffic = Traffic()
    copy = traffic.so_far()
    traffic.responses.append(None)  # type: ignore[arg-type]
    assert copy.responses == []
