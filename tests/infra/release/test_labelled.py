"""infra/release/evidence/accuracy.py: what became known of both versions' answers."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.captures import Capture, Captures, Label
from common.stores import open_store
from infra.release.errors import ReleaseError
from infra.release.evidence.accuracy import NONE, LabelReader, since
from infra.release.verdict.evidence import Labelled

STABLE, CANDIDATE, OTHER = ("a" * 64, "b" * 64, "c" * 64)
CLASSES = {STABLE: ("cat", "dog"), CANDIDATE: ("dog", "cat")}  # in an order of its own
SURE = {"cat": {STABLE: (0.9, 0.1), CANDIDATE: (0.1, 0.9)}}
BEGAN = 1_800_000_000.0


def capture(number: int, model: str = STABLE, probability: float = 1.0, at: float = 1) -> Capture:
    """An answer "cat", where the model knows cats."""
    chances = SURE["cat"].get(model, (0.9, 0.1))
    return Capture(f"{number:032x}", 0, BEGAN + at, model, chances, probability, b"")


def label(number: int, name: str | None, at: float = 2, propensity: float | None = None) -> Label:
    return Label(f"{number:032x}", 0, name, "ada", BEGAN + at, propensity)


@pytest.fixture
def store(tmp_path: Path) -> Captures:
    return Captures(open_store(str(tmp_path)))


def totals(store: Captures, tmp_path: Path, least_chance: float = 1.0) -> dict[str, Labelled]:
    return LabelReader(str(tmp_path), least_chance).totals(CLASSES, BEGAN, BEGAN + 10)


def test_answers_are_right_or_wrong_by_the_classes_of_their_model(
    store: Captures, tmp_path: Path
) -> None:
    assert totals(store, tmp_path) == {STABLE: NONE, CANDIDATE: NONE}
    rows = [capture(1), capture(2, CANDIDATE), capture(3, CANDIDATE), capture(4), capture(5, OTHER)]
    store.write("one", 0, rows, BEGAN)
    store.say_together([label(1, "cat"), label(2, "cat"), label(3, "dog"), label(5, "cat")])
    store.say(label(4, "cat"))
    store.say(label(4, None, at=3))  # taken back
    assert totals(store, tmp_path) == {STABLE: Labelled(1, 0), CANDIDATE: Labelled(1, 1)}


def test_answers_of_before_the_release_are_no_evidence(store: Captures, tmp_path: Path) -> None:
    store.write("one", 0, [capture(1, at=-1), capture(2, at=10)], BEGAN)
    store.say_together([label(1, "cat"), label(2, "cat")])
    assert totals(store, tmp_path)[STABLE] == NONE


def test_all_labelled_answers_have_the_same_chance_to_be_counted(
    store: Captures, tmp_path: Path
) -> None:
    """Unsure answers, which are kept ten times as often, are counted one in ten."""
    rows = [capture(n, probability=1.0 if n % 2 else 0.1) for n in range(4000)]
    store.write("one", 0, rows, BEGAN)
    store.say_together([label(n, "cat" if n % 2 else "dog") for n in range(4000)])
    found = totals(store, tmp_path, least_chance=0.1)[STABLE]
    assert found.wrong == 2000
    assert found.right == pytest.approx(200, abs=45)
    assert totals(store, tmp_path, least_chance=0.1)[STABLE] == found  # at the next look, too


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReleaseError, match="labelled answers"):
        LabelReader("gs://elsewhere", 1.0).totals(CLASSES, BEGAN, BEGAN + 1)


counts = st.builds(Labelled, st.integers(0, 99), st.integers(0, 99))


@given(st.lists(counts, max_size=5), counts)
def test_windows_add_up_to_the_total(earlier: list[Labelled], new: Labelled) -> None:
    total = Labelled(
        sum(one.right for one in [*earlier, new]), sum(one.wrong for one in [*earlier, new])
    )
    assert since(total, earlier) == new
    assert since(NONE, earlier) == NONE
