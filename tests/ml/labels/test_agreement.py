"""ml/labels/agreement.py: Cohen's kappa beside scikit-learn's."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from common.captures import Verdict
from ml.labels.agreement import agreements, kappa


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1))
def test_kappa_is_scikit_learns(said: list[tuple[str, str]]) -> None:
    found = kappa(Counter(said))
    if len({name for pair in said for name in pair}) == 1:
        assert found is None
    else:
        one, other = zip(*said, strict=True)
        assert math.isclose(found or 0.0, cohen_kappa_score(one, other), abs_tol=1e-12)


def test_each_two_labellers_are_compared_on_what_both_have_seen() -> None:
    verdicts = [
        Verdict("cat", {"ada": "cat", "ben": "cat", "cy": "dog"}),
        Verdict(None, {"ada": "cat", "ben": "dog"}),
        Verdict("dog", {"ada": "dog"}),
    ]
    found = {(one.one, one.other): (one.both, one.same) for one in agreements(verdicts)}
    assert found == {("ada", "ben"): (2, 1), ("ada", "cy"): (1, 0), ("ben", "cy"): (1, 0)}
    assert agreements(verdicts)[0].kappa == pytest.approx(0.0)
