"""Where moto 5.2.5 differs from AWS in what Kiln relies on, put right while a cloud runs.

Each function replaces one of moto's; `tests/infra/twin/cloud` shows the behaviour of each.
"""

from __future__ import annotations

import copy
import json
import math
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from moto.awslambda.exceptions import PreconditionFailedException
from moto.awslambda.models import LambdaAlias, LambdaFunction, LambdaStorage
from moto.awslambda.responses import LambdaResponse
from moto.cloudwatch.models import Dimension, MetricDatum, Statistics

from infra.twin.cloud.metrics import SampledDatum


@contextmanager
def repaired() -> Iterator[None]:
    """moto with these repairs, for as long as the block runs."""
    publish, code, statistic, move, answer_move = (
        LambdaStorage.publish_version,
        LambdaFunction.get_code,
        Statistics.get_statistics_for_type,
        LambdaAlias.update,
        LambdaResponse.update_alias,
    )
    one_move = threading.Lock()

    def publish_version(self: Any, name_or_arn: str, description: str = "") -> Any:
        """moto's versions share one description of their code, which an update of one changes."""
        version = publish(self, name_or_arn, description)
        if version is not None:
            version.code = copy.deepcopy(version.code)
        return version

    def get_code(self: Any) -> dict[str, Any]:
        """moto takes the first colon for that of the tag, also in `repository@sha256:…`."""
        answer = code(self)
        if uri := answer.get("Code", {}).get("ImageUri"):
            repository = uri.partition("@")[0].rpartition("/")
            bare = f"{repository[0]}/{repository[2].partition(':')[0]}"
            answer["Code"]["ResolvedImageUri"] = f"{bare}@sha256:{self.code_sha_256}"
        return answer

    def get_statistics_for_type(self: Any, stat: str) -> Any:
        """moto knows no percentiles."""
        if stat.startswith("p") and stat[1:].replace(".", "", 1).isdigit():
            return percentile(list(_values(self.metric_data)), float(stat[1:]))
        return statistic(self, stat)

    def update(self: Any, *changes: Any) -> None:
        """moto's alias keeps its revision for good."""
        move(self, *changes)
        self.revision_id = str(uuid.uuid4())

    def update_alias(self: Any) -> Any:
        """moto moves an alias whatever revision the caller says it has."""
        expected = json.loads(self.body).get("RevisionId")
        function, name = self.path.split("/")[-3], self.path.split("/")[-1]
        with one_move:
            if expected and expected != self.backend.get_alias(name, function).revision_id:
                raise PreconditionFailedException(
                    "The RevisionId provided does not match the latest RevisionId. Call the "
                    "GetFunction or the GetAlias API to retrieve the latest RevisionId"
                )
            return answer_move(self)

    def is_before(self: Dimension, other: Dimension) -> bool:
        """moto's order of dimensions is none, so that of two sets sorted equal ones may differ."""
        return (self.name or "", self.value or "") < (other.name or "", other.value or "")

    with ExitStack() as stack:
        for replaced, name, by in (
            (LambdaStorage, "publish_version", publish_version),
            (LambdaFunction, "get_code", get_code),
            (Statistics, "get_statistics_for_type", get_statistics_for_type),
            (Dimension, "__lt__", is_before),
            (LambdaAlias, "update", update),
            (LambdaResponse, "update_alias", update_alias),
        ):
            stack.enter_context(patch.object(replaced, name, by))
        # An image must be in the registry before a function can have it.
        stack.enter_context(patch.dict(os.environ, {"MOTO_LAMBDA_STUB_ECR": "false"}))
        yield


def percentile(values: list[float], percent: float) -> float | None:
    """The nearest rank, of no values None."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def _values(data: list[Any]) -> Iterator[float]:
    for datum in data:
        if isinstance(datum, SampledDatum):
            yield from datum.values
        elif isinstance(datum, MetricDatum):
            yield datum.value
