"""What is fuzzed under the guidance of coverage: calls that take bytes, and what must hold of each.

A target raises an ordinary exception where something does not hold. Its seeds are made by the
project, the same each time; files that once failed are kept in kept/TARGET/ and must never fail
again.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

_KEPT = Path(__file__).parent / "kept"
Mutate = Callable[[bytes, int], bytes]  # libFuzzer's own, to at most so many bytes


class Target(NamedTuple):
    """A call that takes bytes and raises where what must hold does not."""

    name: str
    call: Callable[[bytes], None]
    make_seeds: Callable[[], Iterator[bytes]]
    longest: int  # bytes of an input
    words: Sequence[bytes] = ()  # that chance alone would hardly write
    mutate: Callable[[bytes, int, Random, Mutate], bytes] | None = None  # instead of libFuzzer's

    def seeds(self) -> Iterator[bytes]:
        """What the fuzzer begins with, and what it found before."""
        yield from self.make_seeds()
        for path in sorted((_KEPT / self.name).glob("*")):
            yield path.read_bytes()


def hold(condition: bool, otherwise: str) -> None:
    """Raises unless the condition holds, as an assert that no option of Python's removes."""
    if not condition:
        raise AssertionError(otherwise)
