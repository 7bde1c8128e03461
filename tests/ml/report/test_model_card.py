"""A model card that says what was measured, on a page and in Markdown."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from common.intervals import Interval
from ml.artifact.evaluation import evaluate
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
    own = to_markdown(facts)
    assert not [word for word in ("CIFAR", "photographs", "2008") if word in own]
    monkeypatch.setattr("ml.report.model_card.CLASSES", CLASSES)
    assert "CIFAR-10 (Krizhevsky 2009)" in to_markdown(facts)


def test_class_names_do_not_break_a_markdown_table(facts: Facts) -> None:
    names = ("a|b", "<b>", *CLASSES[2:])
    card = to_markdown(replace(facts, evaluation=replace(facts.evaluation, classes=names)))
    assert "| a\\|b |" in card
    assert "| &lt;b> |" in card


# What the Hub's own description of the front matter asks for and allows:
# https://github.com/huggingface/hub-docs/blob/main/modelcard.md
_NAMED = {"type": "object", "required": ["type"], "properties": {"name": {"type": "string"}}}
_HUB = {
    "type": "object",
    "required": ["library_name", "tags", "metrics", "model-index"],
    "properties": {
        "license": {"type": "string", "pattern": "^[a-z0-9.-]+$"},
        "library_name": {"type": "string"},
        "pipeline_tag": {"const": "image-classification"},
        "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        "datasets": {"type": "array", "items": {"type": "string", "pattern": "^[^/]+/[^/]+$"}},
        "metrics": {"type": "array", "items": {"type": "string"}},
        "model-index": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "results"],
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string"},
                    "results": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "required": ["task", "dataset", "metrics"],
                            "properties": {
                                "task": _NAMED,
                                "dataset": {**_NAMED, "required": ["type", "name"]},
                                "metrics": {
                                    "type": "array",
                                    "minItems": 1,
                                    "items": {
                                        **_NAMED,
                                        "required": ["type", "value"],
                                        "additionalProperties": False,
                                        "properties": {
                                            "type": {"type": "string"},
                                            "value": {"type": "number"},
                                            "name": {"type": "string"},
                                            "args": {"type": "object"},
                                        },
                                    },
                                },
                            },
                        },
                    },
                },
            },
        },
    },
    "additionalProperties": False,
}


def _head(text: str) -> Any:
    before, head, body = text.split("---\n", 2)
    assert not before
    assert body.lstrip().startswith("# Model card: ")
    return yaml.safe_load(head)


@pytest.mark.parametrize("license", [None, "apache-2.0"])
def test_the_front_matter_is_what_the_hub_reads(facts: Facts, license: str | None) -> None:
    head = _head(to_markdown(replace(facts, license=license)))
    jsonschema.validate(head, _HUB)
    assert head.get("license") == license
    assert "datasets" not in head  # nobody else knows it
    (result,) = head["model-index"][0]["results"]
    assert result["dataset"]["args"]["digest"] == facts.metadata.dataset_digest
    values = {one["type"]: one["value"] for one in result["metrics"]}
    assert values["accuracy"] == pytest.approx(facts.evaluation.accuracy, abs=1e-6)
    assert values["f1"] == pytest.approx(facts.evaluation.macro_f1, abs=1e-6)


def test_the_bundled_card_says_what_the_bundled_metrics_say() -> None:
    folder = Path("ml/bundled")
    head = _head((folder / "MODEL_CARD.md").read_text(encoding="utf-8"))
    jsonschema.validate(head, _HUB)
    assert (head["license"], head["datasets"]) == ("apache-2.0", ["uoft-cs/cifar10"])
    test = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["test"]
    values = {one["type"]: one["value"] for one in head["model-index"][0]["results"][0]["metrics"]}
    assert values["accuracy"] == test["accuracy"]
    assert values["loss"] == pytest.approx(test["loss"], abs=1e-6)


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
