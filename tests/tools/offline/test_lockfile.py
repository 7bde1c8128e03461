"""Reading the hashed lock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.offline.pypi_hub.lockfile import LockError, normalise, parse_lock

HASH = "--hash=sha256:" + "0" * 64


def test_a_pin_keeps_its_name_version_extras_marker_and_hashes() -> None:
    lock = f"""\
# made by a tool
Cuda-Toolkit[cublas, cudart]==13.0.3.0 ; sys_platform == 'linux' \\
    {HASH} \\
    --hash=sha256:{"1" * 64}
    # via torch
six==1.17.0 \\
    {HASH}
"""
    toolkit, six = parse_lock(lock)

    assert (toolkit.name, toolkit.version) == ("cuda_toolkit", "13.0.3.0")
    assert toolkit.extras == {"cublas", "cudart"}
    assert toolkit.marker == "sys_platform == 'linux'"
    assert toolkit.hashes == ("sha256:" + "0" * 64, "sha256:" + "1" * 64)
    assert (six.name, six.extras, six.marker) == ("six", frozenset(), "")


@pytest.mark.parametrize(
    ("lock", "reason"),
    [
        ("six==1.17.0\n", "six has no --hash"),
        (f"six>=1.17.0 {HASH}\n", "expected `name==version"),
        ("-r other.txt\n", "expected `name==version"),
        (f"six==1.0 {HASH}\nSix==1.1 {HASH}\n", "six is pinned twice"),
    ],
)
def test_a_lock_that_does_not_pin_everything_is_refused(lock: str, reason: str) -> None:
    with pytest.raises(LockError, match=reason):
        parse_lock(lock)


@given(st.from_regex(r"[A-Za-z0-9]+([-_.]+[A-Za-z0-9]+)*", fullmatch=True))
def test_spellings_of_a_name_share_one_label(name: str) -> None:
    assert (
        normalise(name) == normalise(normalise(name)) == normalise(name.replace("_", "-").upper())
    )
