"""ml/runs/inputs.py."""

from argparse import ArgumentTypeError

import pytest

from ml.runs.inputs import count, share


@pytest.mark.parametrize("text", ["0", "-3"])
def test_a_count_below_one_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=f"above 0, got {text}"):
        count(text)
    assert count("1") == 1


@pytest.mark.parametrize("text", ["0", "1", "-0.1", "nan"])
def test_a_share_is_between_nothing_and_everything(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=f"between 0 and 1, got {text}"):
        share(text)
    assert share("0.25") == 0.25
