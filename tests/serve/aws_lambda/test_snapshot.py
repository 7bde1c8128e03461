"""What happens around a snapshot."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from serve.aws_lambda.lifecycle import renew, warm


def copies(after_restore: Callable[[], None]) -> list[str]:
    """What two copies draw first; unlike a fork, a snapshot renews nothing by itself."""
    drawn, state = [], random.getstate()
    for _ in range(2):
        reading, writing = os.pipe()
        if os.fork() == 0:
            random.setstate(state)
            after_restore()
            os.write(writing, str(random.getrandbits(64)).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as file:
            drawn.append(file.read())
        os.wait()
    return drawn


def test_copies_draw_the_same_numbers_unless_they_are_renewed() -> None:
    one, two = copies(lambda: None)
    assert one == two
    one, two = copies(renew)
    assert one != two


def test_warming_takes_the_whole_path_of_a_prediction() -> None:
    warm()
