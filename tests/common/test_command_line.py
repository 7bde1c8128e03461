"""common/command_line.py."""

from argparse import ArgumentTypeError
from collections.abc import Callable

import pytest

from common.command_line import count, positive, share, share_or_none


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (count, "1", "0 -3"),
        (positive, "0.001", "0 -1 nan inf"),
        (share, "0.25", "0 1 -0.1 nan"),
        (share_or_none, "0", "1 -0.1 nan"),
    ],
)
def test_a_number_outside_its_range_is_refused_by_its_value(
    kind: Callable[[str], float], good: str, bad: str
) -> None:
    assert kind(good) == float(good)
    for text in bad.split():
        with pytest.raises(ArgumentTypeError, match=f"got {text}$"):
            kind(text)
