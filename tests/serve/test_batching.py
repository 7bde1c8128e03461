"""serve/inference/predictor.py: requests together in one run, and the doors closed when too many
come."""

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray

from serve.errors import Overloaded
from serve.inference.predictor import Batcher, Inference


class Recorder:
    """Answers with each image's first value, and remembers the sizes of its runs."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.runs.append(len(images))
        return images[:, 0, 0, :1].astype(np.float32)


def images(*values: int) -> NDArray[np.uint8]:
    return np.stack([np.full((2, 2, 3), value, np.uint8) for value in values])


def batcher(predict: Recorder, **changes: float) -> Batcher:
    options = {"max_batch": 4, "max_queue": 100, "deadline_s": 60.0} | changes
    return Batcher(
        predict, int(options["max_batch"]), int(options["max_queue"]), options["deadline_s"]
    )


def values(answer: Inference) -> list[float]:
    return [float(row[0]) for row in answer.probabilities]


def test_concurrent_requests_share_runs_and_get_their_own_answers() -> None:
    predict = Recorder()

    async def ask() -> list[Inference]:
        ours = batcher(predict)
        return await asyncio.gather(*(ours(images(value)) for value in range(10)))

    answers = asyncio.run(ask())
    assert [values(answer) for answer in answers] == [[float(value)] for value in range(10)]
    assert predict.runs == [4, 4, 2]
    assert [answer.batch for answer in answers] == [4] * 8 + [2] * 2


def test_a_lone_request_waits_for_nobody() -> None:
    predict = Recorder()
    assert values(asyncio.run(batcher(predict)(images(7)))) == [7.0]
    assert predict.runs == [1]


def test_a_large_request_is_answered_in_parts_and_in_order() -> None:
    predict = Recorder()

    async def ask() -> tuple[Inference, Inference]:
        ours = batcher(predict)
        return await asyncio.gather(ours(images(*range(10))), ours(images(99)))

    large, small = asyncio.run(ask())
    assert values(large) == [float(value) for value in range(10)]
    assert values(small) == [99.0]
    assert max(predict.runs) <= 4


def test_a_run_never_mixes_up_requests_of_different_sizes() -> None:
    predict = Recorder()
    sizes = [1, 3, 2, 4, 1, 1, 2, 7, 1]

    async def ask() -> list[Inference]:
        ours = batcher(predict)
        return await asyncio.gather(*(ours(images(*[n] * size)) for n, size in enumerate(sizes)))

    answers = asyncio.run(ask())
    assert [values(answer) for answer in answers] == [
        [float(n)] * size for n, size in enumerate(sizes)
    ]


def test_a_full_queue_turns_requests_away_and_says_when_to_come_again() -> None:
    ours = batcher(Recorder(), max_queue=10)
    with ours.admission(8):
        with pytest.raises(Overloaded, match=r"^8 ") as refusal, ours.admission(3):
            pytest.fail("was admitted")
        with ours.admission(2):
            assert ours.admitted == 10
    assert int(refusal.value.headers["retry-after"]) >= 1
    assert ours.admitted == 0


def test_an_idle_service_takes_a_request_of_any_size() -> None:
    with batcher(Recorder(), max_queue=10).admission(11):
        pass


def test_requests_that_would_wait_past_the_deadline_are_turned_away_at_the_door() -> None:
    ours = batcher(Recorder(), deadline_s=1e-9)
    with ours.admission(1):
        asyncio.run(_ignoring_overload(ours))
        ours._learn(0.5)
        with pytest.raises(Overloaded), ours.admission(1):
            pytest.fail("was admitted")


async def _ignoring_overload(ours: Batcher) -> None:
    with pytest.raises(Overloaded):
        await ours(images(1))


def test_requests_that_waited_past_the_deadline_are_not_run() -> None:
    predict = Recorder()
    asyncio.run(_ignoring_overload(batcher(predict, deadline_s=-1)))
    assert predict.runs == []


def test_a_request_that_was_given_up_is_not_run() -> None:
    predict = Recorder()

    async def ask() -> Inference:
        ours = batcher(predict)
        given_up = asyncio.ensure_future(ours(images(1, 2)))
        await asyncio.sleep(0)  # it waits now
        given_up.cancel()
        return await ours(images(3))

    assert values(asyncio.run(ask())) == [3.0]
    assert sum(predict.runs) <= 3


def test_an_error_of_the_model_reaches_everybody_who_waits_and_nobody_after() -> None:
    class Flaky(Recorder):
        def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            if not self.runs:
                self.runs.append(0)
                raise RuntimeError("the first run fails")
            return super().__call__(images)

    async def ask() -> tuple[tuple[Inference | BaseException, ...], Inference]:
        ours = batcher(Flaky())
        first = await asyncio.gather(ours(images(1)), ours(images(2)), return_exceptions=True)
        return first, await ours(images(3))

    failed, answered = asyncio.run(ask())
    assert all(isinstance(one, RuntimeError) for one in failed)
    assert values(answered) == [3.0]
