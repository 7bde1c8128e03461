"""Accuracy of both versions, on golden images and on callers' answers that were labelled."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.captures import Capture, Captures, Label
from common.golden import (
    GoldenImage,
    GoldenSet,
    GoldenSetError,
    read_golden_set,
    write_golden_set,
)
from common.stores import open_store
from infra.release.aws.clients import Aws
from infra.release.aws.function import FORMS, Form, LambdaFunction, predict_event
from infra.release.errors import ReleaseError
from infra.release.evidence.accuracy import NONE, LabelReader, replay, since
from infra.release.evidence.collector import read_buckets
from infra.release.verdict.evidence import Labelled
from serve.errors import Unauthorized
from serve.http.bodies import one_image
from serve.http.keys import KeyRing
from tests.infra.release.world import World
from tests.infra.twin.cloud.functions import client, publish
from tests.serve.aws_lambda.events import function_url, http_api, load_balancer, rest_api

GOOD, OTHER = "a" * 64, "b" * 64
IMAGES = [GoldenImage(f"cat:{number}".encode(), "cat") for number in range(40)]

images = st.builds(GoldenImage, st.binary(max_size=20), st.text(max_size=5))


@given(st.lists(images, max_size=20), st.text(max_size=10))
def test_a_golden_set_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, written: list[GoldenImage], name: str
) -> None:
    folder = tmp_path_factory.mktemp("golden")
    for file in ("one.zip", "two.zip"):
        write_golden_set(folder / file, name, written)
    assert read_golden_set(folder / "one.zip") == GoldenSet(name, tuple(written))
    assert (folder / "one.zip").read_bytes() == (folder / "two.zip").read_bytes()


def test_what_is_no_golden_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "golden.zip").write_bytes(b"PK")
    with pytest.raises(GoldenSetError):
        read_golden_set(tmp_path / "golden.zip")


@given(st.text(max_size=12), st.text(max_size=12))
def test_every_release_asks_all_images_in_an_order_of_its_own(one: str, other: str) -> None:
    golden = GoldenSet("made up", tuple(IMAGES))
    order = golden.order(one)
    assert sorted(order, key=IMAGES.index) == IMAGES
    assert order == golden.order(one)
    assert (order == golden.order(other)) == (one == other)


def test_both_versions_are_compared_image_by_image(world: World) -> None:
    world.create(world.push(GOOD))
    candidate = publish(world.cloud, world.push(OTHER, wrong=0.5), world.name)
    function = LambdaFunction(Aws(), world.name, "live")
    found = replay(function, "1", candidate, IMAGES, 4, 30.0, read_buckets())
    assert found.used == found.replay.images == 40
    assert found.replay.both_right + found.replay.only_stable_right == 40
    assert 5 < found.replay.only_stable_right < 35
    assert found.stable.requests == found.candidate.requests == 40
    assert (
        sum(found.candidate.latency) == 36
    )  # the first of each of four threads may be a cold start
    reverse = replay(function, candidate, "1", IMAGES, 4, 30.0, read_buckets())
    assert reverse.replay.only_candidate_right > 0 == reverse.replay.only_stable_right


def test_images_that_no_time_was_left_for_come_with_the_next_look(world: World) -> None:
    world.create(world.push(GOOD))
    function = LambdaFunction(Aws(), world.name, "live")
    ticks = iter([0.0, *(1.0 for _ in range(7)), *(99.0 for _ in range(99))])
    found = replay(function, "1", "1", IMAGES, 1, 10.0, read_buckets(), clock=lambda: next(ticks))
    assert found.used == found.replay.images == 7


def test_calls_that_find_no_room_say_nothing_about_a_version(world: World) -> None:
    world.create(world.push(GOOD, delay_s=0.05))
    client(world.cloud, "lambda").put_function_concurrency(
        FunctionName=world.name, ReservedConcurrentExecutions=1
    )
    function = LambdaFunction(Aws(), world.name, "live")
    found = replay(function, "1", "1", IMAGES[:20], 6, 30.0, read_buckets())
    assert found.used == 20
    assert 0 < found.replay.both_right == found.replay.images < 20


def test_the_service_asks_the_release_manager_for_no_api_key() -> None:
    """Who may invoke a version directly has IAM's permission; a caller's event has its door's."""
    ring, headers = KeyRing(("0" * 64,)), [(b"host", b"release-manager")]
    ring.check({"type": "http", "headers": [], "aws.event": predict_event(b"image")})
    for door in (http_api, function_url, rest_api, load_balancer):
        event = door("POST", "/predict", b"{}", {"host": "release-manager"})
        with pytest.raises(Unauthorized):
            ring.check({"type": "http", "headers": headers, "aws.event": event})
    with pytest.raises(Unauthorized):
        ring.check({"type": "http", "headers": headers})


@pytest.mark.parametrize("form", FORMS)
@given(image=st.binary(min_size=1, max_size=40))
def test_the_service_reads_the_same_image_from_every_form(form: Form, image: bytes) -> None:
    event = predict_event(image, form=form)
    body = event["body"].encode()
    if event["isBase64Encoded"]:
        body = base64.b64decode(body)
    headers = [(b"content-type", event["headers"]["content-type"].encode())]
    upload, _ = one_image({"type": "http", "headers": headers, "query_string": b""}, body)
    assert upload.data == image


STABLE, CANDIDATE, FOREIGN = ("a" * 64, "b" * 64, "c" * 64)
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
    rows = [
        capture(1),
        capture(2, CANDIDATE),
        capture(3, CANDIDATE),
        capture(4),
        capture(5, FOREIGN),
    ]
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
    with pytest.raises(ReleaseError):
        LabelReader("gs://elsewhere", 1.0).totals(CLASSES, BEGAN, BEGAN + 1)


counts = st.builds(Labelled, st.integers(0, 99), st.integers(0, 99))


@given(st.lists(counts, max_size=5), counts)
def test_windows_add_up_to_the_total(earlier: list[Labelled], new: Labelled) -> None:
    total = Labelled(
        sum(one.right for one in [*earlier, new]), sum(one.wrong for one in [*earlier, new])
    )
    assert since(total, earlier) == new
    assert since(NONE, earlier) == NONE
