"""The statement of what an image was made from."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.supply_chain.provenance import SERVICE, WATCHER, Model, Provenance, ProvenanceError
from tests.infra.supply_chain.made import made

floats = st.floats(allow_nan=False, allow_infinity=False)
models = st.builds(
    Model,
    test_images=st.integers(1, 10**6),
    test_accuracy=floats,
    test_macro_f1=floats,
    test_loss=floats,
    test_calibration_error=floats,
)


@given(st.builds(Provenance, model=models))
def test_what_was_stated_reads_back_after_a_journey_as_json(stated: Provenance) -> None:
    predicate = json.loads(json.dumps(stated.to_predicate()))
    assert Provenance.from_predicate(predicate) == stated


def test_the_predicate_has_the_parts_that_slsa_requires() -> None:
    predicate = made("3" * 64).to_predicate()
    definition, run = predicate["buildDefinition"], predicate["runDetails"]
    assert definition.keys() >= {"buildType", "externalParameters", "resolvedDependencies"}
    assert run["builder"]["id"]
    digests = {
        entry["name"]: set(entry["digest"].values()) for entry in definition["resolvedDependencies"]
    }
    assert digests == {
        "source": {"1" * 40},
        "requirements_lock.txt": {"2" * 64},
        "dataset": {"e" * 64},
        "config": {"d" * 64},
        "model.onnx": {"b" * 64},
    }


def test_the_watchers_statement_has_no_model_and_a_services_must_have_one() -> None:
    watcher = replace(made("3" * 64), model=None, target=WATCHER)
    assert Provenance.from_predicate(watcher.to_predicate()) == watcher
    emptied = replace(watcher, target=SERVICE).to_predicate()
    with pytest.raises(ProvenanceError, match=r"'model\.onnx' is missing"):
        Provenance.from_predicate(emptied)


def without(predicate: dict[str, Any], *path: str | int) -> dict[str, Any]:
    """The predicate, with one part gone."""
    place: Any = predicate
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    return predicate


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (("buildDefinition",), "buildDefinition"),
        (("runDetails", "builder", "id"), "id"),
        (("buildDefinition", "resolvedDependencies", 0), "source"),
        (("buildDefinition", "resolvedDependencies", 4, "annotations", "version"), "version"),
    ],
)
def test_a_missing_part_is_named(path: tuple[str | int, ...], named: str) -> None:
    with pytest.raises(ProvenanceError, match=f"'{named}' is missing"):
        Provenance.from_predicate(without(made("3" * 64).to_predicate(), *path))


def test_the_statement_of_another_build_system_is_refused() -> None:
    predicate = made("3" * 64).to_predicate()
    predicate["buildDefinition"]["buildType"] = "https://actions.github.io/buildtypes/workflow/v1"
    with pytest.raises(ProvenanceError, match="urn:kiln:bazel-image:1"):
        Provenance.from_predicate(predicate)
