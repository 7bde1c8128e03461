"""Artifacts that the contract takes, a few hundred bytes each; nothing can run them."""

from typing import Any

from common.model.model_file import read_model_file
from tests.common.model.samples import model_bytes, sample_metadata


def artifact(weights: str = "first", **changes: Any) -> bytes:
    """A file whose version follows from `weights`, its metadata from `changes`."""
    graph = weights.encode()
    version = read_model_file(model_bytes({}, graph)).version
    props = sample_metadata(version=version, **changes).to_metadata_props()
    return model_bytes(props, graph)


def version_of(weights: str) -> str:
    return read_model_file(model_bytes({}, weights.encode())).version
