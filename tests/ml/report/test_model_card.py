"""A model card that says what was measured, on a page and in Markdown."""

import re
from dataclasses import replace

import pytest

from ml.artifact.evaluation import Interval, evaluate
from ml.report.model_card import Facts, Small, to_html, to_markdown
from tests.ml.artifact.small_model import CLASSES, exported


@pytest.fixture(scope="module")
def facts() -> Facts:
    report = exported()
    return Facts(
        metadata=report.metadata,
        evaluation=report.evaluation,
        loss_interval=Interval(0.1, 0.2),
        parity=report.parity,
        parameters=1234,
        size_bytes=report.size_bytes,
        training={
            "monitor": "val/accuracy",
            "val/accuracy": 0.5,
            "best_epoch": 2,
            "epochs": 3,
            "temperature": 0.75,
        },
        rows=[{"epoch": 1, "val/accuracy": 0.4}, {"epoch": 2, "val/accuracy": 0.5}],
        config="seed: 0 # <not> a tag\n",
        reproduce="./tools/bazel build //ml:model",
    )


def test_both_forms_tell_scores_provenance_and_the_command(facts: Facts) -> None:
    m, e = facts.metadata, facts.evaluation
    for text in (to_html(facts), to_markdown(facts)):
        for fact in (f"{e.accuracy:.2%}", m.version, m.dataset_digest, m.lock_digest, *CLASSES):
            assert fact in text
        assert "./tools/bazel build //ml:model" in text
        assert "95 % interval" in text


def test_only_a_model_of_its_classes_is_said_to_have_seen_cifar10(
    facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "CIFAR" not in to_markdown(facts)
    monkeypatch.setattr("ml.report.model_card.CLASSES", CLASSES)
    assert "CIFAR-10 (Krizhevsky 2009)" in to_markdown(facts)


def test_the_page_stands_alone(facts: Facts) -> None:
    page = to_html(facts)
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert "{{" not in page
    assert page.count("<svg") == 2  # calibration, learning curves
    assert "&lt;not&gt; a tag" in page


def test_equal_facts_give_equal_cards(facts: Facts) -> None:
    assert to_html(facts) == to_html(facts)


def test_markdown_tables_are_whole(facts: Facts) -> None:
    lines = to_markdown(facts).splitlines()
    widths = [line.count("|") for line in lines if line.startswith("|")]
    rules = [i for i, line in enumerate(lines) if line.startswith("| ---")]
    assert len(rules) == 4
    assert all(lines[i - 1].count("|") == lines[i].count("|") for i in rules)
    assert min(widths) >= 3


def test_the_small_model_is_set_beside_the_full_one(facts: Facts) -> None:
    small = Small(
        metadata=replace(facts.metadata, version="f" * 64),
        evaluation=evaluate(*_perfect(), CLASSES),
        size_bytes=4321,
    )
    text = to_markdown(replace(facts, small=small))
    assert f"| Bytes | {facts.size_bytes:,} | 4,321 |" in text
    assert "100.00%" in text
    assert "ffffffffffff" in text


def _perfect() -> tuple[list[list[float]], list[int]]:
    return [[float(i == k) for i in range(4)] for k in range(4)], list(range(4))


def test_the_worst_class_is_named_among_the_limits(facts: Facts) -> None:
    recall = facts.evaluation.recall
    worst = CLASSES[recall.index(min(recall))]
    assert f"Worst class: {worst}" in to_markdown(facts)
