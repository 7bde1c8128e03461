"""What moto answers since it was put right; each test fails on moto alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import pytest
from botocore.exceptions import ClientError

from infra.twin.cloud.cloud import Cloud, percentile
from tests.infra.twin.cloud.functions import Functions, client, create, metric_value, publish


def asked(cloud: Cloud, where: Sequence[dict[str, str]], stat: str) -> float | None:
    """A statistic of the metric `size` with these dimensions."""
    metric = {"Namespace": "Kiln", "MetricName": "size", "Dimensions": list(where)}
    return metric_value(cloud, metric, stat)


def test_an_update_leaves_the_image_of_published_versions_alone(
    cloud: Cloud, functions: Functions
) -> None:
    first = functions.push(cloud, "serve(lambda event, head: 1)")
    second = functions.push(cloud, "serve(lambda event, head: 2)")
    create(cloud, first)
    two = publish(cloud, second)
    api = client(cloud, "lambda")
    for version, image in (("1", first), (two, second)):
        code = api.get_function(FunctionName="kiln", Qualifier=version)["Code"]
        assert (code["ImageUri"], code["ResolvedImageUri"]) == (image, image)
        configuration = api.get_function_configuration(FunctionName="kiln", Qualifier=version)
        assert configuration["CodeSha256"] == image.rpartition(":")[2]


def test_a_function_cannot_have_an_image_that_is_not_in_the_registry(
    cloud: Cloud, functions: Functions
) -> None:
    image = functions.push(cloud, "serve(lambda event, head: 1)")
    with pytest.raises(Exception, match="ImageNotFound"):
        create(cloud, image[:-4] + "0000")


def test_an_alias_is_moved_only_as_its_mover_has_read_it(
    cloud: Cloud, functions: Functions
) -> None:
    create(cloud, functions.push(cloud, "serve(lambda event, head: 1)"))
    api, alias = client(cloud, "lambda"), {"FunctionName": "kiln", "Name": "live"}
    read = api.get_alias(**alias)["RevisionId"]
    moved = api.update_alias(**alias, Description="moved", RevisionId=read)
    assert moved["RevisionId"] != read
    with pytest.raises(ClientError, match="PreconditionFailedException"):
        api.update_alias(**alias, Description="again", RevisionId=read)
    assert api.get_alias(**alias)["Description"] == "moved"
    api.update_alias(**alias, Description="by force")
    assert api.get_alias(**alias)["Description"] == "by force"


def test_cloudwatch_answers_percentiles_of_values_that_were_sent_one_by_one(cloud: Cloud) -> None:
    api, where = client(cloud, "cloudwatch"), [{"Name": "service", "Value": "kiln"}]
    for value in range(10, 0, -1):
        datum = {"MetricName": "size", "Value": float(value), "Dimensions": where}
        api.put_metric_data(Namespace="Kiln", MetricData=[datum])
    assert [asked(cloud, where, stat) for stat in ("p50", "p99.9", "Sum")] == [5, 10, 55]


def test_a_metric_is_found_in_whichever_order_its_dimensions_are_named(cloud: Cloud) -> None:
    pairs = (("route", "/a"), ("service", "z"), ("version", "2"))
    where = [{"Name": name, "Value": value} for name, value in pairs]
    datum = {"MetricName": "size", "Value": 3.0, "Dimensions": where}
    client(cloud, "cloudwatch").put_metric_data(Namespace="Kiln", MetricData=[datum])
    assert [asked(cloud, order, "Sum") for order in permutations(where)] == [3.0] * 6


def test_percentiles_are_the_nearest_rank() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, percent) for percent in (0, 50, 99, 99.9, 100)] == [
        1, 50, 99, 100, 100,
    ]  # fmt: skip
    assert percentile([], 50) is None
