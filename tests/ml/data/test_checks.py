"""Every way in which a dataset is mistaken is said before anything is computed from it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.model.artifact import FIELDS
from ml.data.checks import check_digest, check_statements, checked_part
from ml.data.cifar10 import DatasetError
from ml.data.datamodule import ImageData

Arrays = tuple[Any, Any]


def _good(images: int = 60, classes: int = 3, channels: int = 3) -> tuple[NDArray[Any], ...]:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (images, channels, 8, 6), dtype=np.uint8)
    return pixels, np.arange(images) % classes


class Given(ImageData):
    """Whatever a test says."""

    classes: Any = ("a", "b", "c")
    image_size: Any = (8, 6)
    mean: Any = (0.5, 0.5, 0.5)
    std: Any = (0.3, 0.3, 0.3)
    digest = "0" * 64
    arrays: Any = staticmethod(_good)

    def read(self, part: str) -> Arrays:
        read: Arrays = self.arrays()
        return read


def _given(read: Callable[[], Any] = _good, /, **stated: Any) -> Given:
    data = Given(batch_size=8, validation_size=6, epochs=1, seed=0, folder="unused")
    for name, value in {"arrays": read, **stated}.items():
        setattr(data, name, value)
    return data


def _changed(**changes: Callable[[Any], Any]) -> Callable[[], Arrays]:
    def read() -> Arrays:
        pixels, labels = _good()
        return changes.get("pixels", _same)(pixels), changes.get("labels", _same)(labels)

    return read


def _same(value: Any) -> Any:
    return value


def test_a_sound_dataset_passes_as_it_is() -> None:
    pixels, labels = checked_part(_given(), "train")
    expected = _good()
    np.testing.assert_array_equal(pixels, expected[0])
    np.testing.assert_array_equal(labels, expected[1])


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (lambda p: (p / 255).astype(np.float32), r"float32.*\(255 \* pixels\)\.round\(\)"),
        (lambda p: p.astype(np.int64), r"int64.*pixels\.round\(\)\.astype\(np\.uint8\)"),
        (lambda p: p.astype(np.int16) - 128, "int16.*scale them"),
        (lambda p: p > 127, "bool"),
        (lambda p: p // 128, "brightest pixel is 1"),
        (lambda p: p.transpose(0, 2, 3, 1), r"transpose\(0, 3, 1, 2\)"),
        (lambda p: p[:, 0], r"pixels\[:, None\]"),
        (lambda p: p[:, :2], r"\(60, 2, 8, 6\)"),
        (lambda p: np.concatenate([p, p[:, :1]], 1), "alpha"),
        (lambda p: p[..., :5], "image_size says 8 × 6"),
        (lambda p: p.transpose(0, 1, 3, 2), r"\(60, 3, 6, 8\).*image_size says 8 × 6"),
        (lambda p: p.reshape(60, -1), r"\(60, 144\)"),
        (lambda p: p[:0], "no images"),
        (lambda p: p[:-1], "59 images and 60 labels"),
        (lambda p: p.tolist(), "a list"),
    ],
)
def test_pixels_that_are_mistaken(wrong: Callable[[Any], Any], complaint: str) -> None:
    with pytest.raises(DatasetError, match=complaint):
        checked_part(_given(_changed(pixels=wrong)), "test")


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (lambda y: y + 1, "1…3, expected 0…2: subtract one"),
        (lambda y: y - 1, "label 0 is -1, expected 0…2"),
        (lambda y: np.where(y == 2, 7, y), "label 2 is 7, expected 0…2"),
        (lambda y: y.astype(float), "float64"),
        (lambda y: y == 1, "bool"),
        (lambda y: np.array(list("abc"))[y], "<U1"),
        (lambda y: np.eye(3)[y], r"\.argmax\(1\)"),
        (lambda y: y[:-1], "60 images and 59 labels"),
        (lambda y: y.tolist(), "a list"),
        (lambda y: np.zeros_like(y), "class 'b' and 1 more has no training images"),
        (lambda y: np.where(np.arange(60) < 2, y, 2), "class 'a' has 1 training images"),
    ],
)
def test_labels_that_are_mistaken(wrong: Callable[[Any], Any], complaint: str) -> None:
    with pytest.raises(DatasetError, match=complaint):
        checked_part(_given(_changed(labels=wrong)), "train")


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint64, np.int64])
def test_labels_of_every_whole_type_are_taken(kind: type) -> None:
    _, labels = checked_part(_given(_changed(labels=lambda y: y.astype(kind))), "train")
    assert labels.dtype == np.int64
    assert labels.tolist() == _good()[1].tolist()


def test_a_class_may_be_missing_from_the_test_images() -> None:
    _, labels = checked_part(_given(_changed(labels=np.zeros_like)), "test")
    assert set(labels) == {0}


def test_grey_images_become_three_equal_channels() -> None:
    data = _given(lambda: _good(channels=1), mean=(0.5,), std=[0.3])
    images = data.test_images()
    assert images.pixels.shape == (60, 3, 8, 6)
    pixels = np.asarray(images.pixels)
    np.testing.assert_array_equal(pixels, np.repeat(pixels[:, :1], 3, axis=1))
    ((batch, _),) = list(images)
    assert batch.shape == (60, 3, 8, 6)


@pytest.mark.parametrize(
    ("stated", "complaint"),
    [
        ({"classes": "abc"}, "expected a tuple of names"),
        ({"classes": 3}, "classes is 3, expected a tuple of names"),
        ({"classes": ("a",)}, "two names or more"),
        ({"classes": ()}, "two names or more"),
        ({"classes": ("a", "b", "a")}, r"classes\[0\] and classes\[2\] are both 'a'"),
        ({"classes": ("caf\u00e9", "b", "cafe\u0301")}, "both"),  # the same on the screen
        ({"classes": ("a", "", "c")}, "expected a name"),
        ({"classes": ("a", " \t", "c")}, r"classes\[1\].*expected a name"),
        ({"classes": ("a", "b ", "c")}, "no blanks at its ends"),
        ({"classes": ("a", 2, "c")}, "expected text, got int"),
        ({"classes": ("a", "b\nc", "c")}, r"U\+000A"),
        ({"classes": ("a", "\u202eb", "c")}, r"U\+202E"),
        ({"classes": ("a", "\ud800", "c")}, r"U\+D800"),
        ({"classes": ("a", "b" * 101, "c")}, "at most 100 characters"),
        ({"image_size": 8}, r"expected \(height, width\)"),
        ({"image_size": (8, 0)}, r"image_size is \(8, 0\), expected \(height, width\)"),
        ({"image_size": (8.0, 6.0)}, r"image_size is \(8.0, 6.0\), expected"),
        ({"mean": (0.5, 0.5)}, "mean has 2 numbers"),
        ({"mean": 0.5}, "mean is 0.5, expected three numbers"),
        ({"mean": (125.3, 123.0, 113.9)}, "divide them by 255"),
        ({"mean": (0.5, float("nan"), 0.5)}, "nan.*expected three numbers"),
        ({"std": (0.0, 0.3, 0.3)}, "std is"),
        ({"std": (0.3, -0.3, 0.3)}, r"std is \(0.3, -0.3"),
        ({"std": None}, "std is None"),
    ],
)
def test_statements_that_are_mistaken(stated: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DatasetError, match=complaint):
        check_statements(_given(**stated))


@pytest.mark.parametrize("name", ["$5", "猫", "ein Hund", "c++", "a/b", "<b>", "🐕", "100%"])
def test_names_of_every_language_are_taken(name: str) -> None:
    check_statements(_given(classes=(name, "b", "c")))


def test_statistics_of_another_dataset_pass_and_impossible_ones_do_not() -> None:
    checked_part(_given(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)), "train")
    checked_part(_given(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)), "train")
    with pytest.raises(DatasetError, match="far from what the pixels are"):
        checked_part(_given(std=(0.01, 0.01, 0.01)), "train")


def test_a_dataset_that_forgets_to_state_something_is_told_what() -> None:
    class Bare:
        classes = ("a", "b")

    with pytest.raises(DatasetError, match="image_size"):
        check_statements(Bare())


@pytest.mark.parametrize(
    ("read", "complaint"),
    [
        (lambda: _good()[0], "returned ndarray"),
        (lambda: (*_good(), 1), "returned tuple"),
        (lambda: np.load("/nowhere/train.npz"), "nowhere"),
        (lambda: tuple(array[:0] for array in _good()), "there are no images"),
        (lambda: (np.full_like(_good()[0], 128), _good()[1]), "nothing to learn"),
        (lambda: (np.uint8(3), _good()[1]), "expected a NumPy array"),
    ],
)
def test_a_part_that_cannot_be_read(read: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(DatasetError, match=complaint):
        checked_part(_given(read), "train")


def test_no_validation_images_are_refused() -> None:
    with pytest.raises(DatasetError, match="validation_size=0"):
        checked_part(_given(validation_size=0), "train")


@given(
    st.one_of(
        st.text(max_size=70),
        st.from_regex("(md5:|sha256:)?[0-9a-f]{30,66}(.dir)?", fullmatch=True),
    )
)
def test_a_digest_passes_exactly_if_a_model_could_carry_it(text: str) -> None:
    def passes(check: Callable[[str], Any]) -> bool:
        try:
            check(text)
        except ValueError:
            return False
        return True

    assert passes(check_digest) == passes(FIELDS["dataset_digest"].decode)


@pytest.mark.parametrize("digest", [None, b"0" * 64, 7])
def test_a_digest_is_text(digest: Any) -> None:
    with pytest.raises(DatasetError, match=r"data\.digest is"):
        check_digest(digest)
