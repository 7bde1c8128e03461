"""ml/report/page.py: a page that stands alone and shows the numbers that it was given."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ml.artifact.evaluation import evaluate, worst_mistakes
from ml.report import page, plots
from ml.report.page import MISTAKES, Run, render, write_mistakes, write_plots, write_report

CLASSES = ("plane", "<script>", "bird")


def run(images: int = 300, seed: int = 0) -> Run:
    """A classifier of noise that is right more often than not."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, images)
    p = rng.dirichlet((1, 1, 1), images)
    p[np.arange(images), labels] += 0.6
    p /= p.sum(axis=1, keepdims=True)
    return Run(
        name="night run",
        evaluation=evaluate(p, labels, CLASSES),
        rows=[{"epoch": 1, "train/loss": 1.0, "val/loss": 1.2, "val/accuracy": 0.6}],
        images=rng.integers(0, 256, (images, 8, 8, 3)).astype(np.uint8),
        labels=labels,
        probabilities=p,
        parameters=1_234_567,
        size_bytes=4_321_000,
        training_s=412.3,
        config="name: night & day\n",
        system=[{"elapsed_s": 1.0, "cpu_percent": 50.0, "process_memory_gb": 1.0}],
        provenance={"Git revision": "a" * 40, "Remark": "<b>bold</b>", "Nothing": ""},
    )


@pytest.fixture(scope="module")
def report() -> Run:
    return run()


@pytest.fixture(scope="module")
def html(report: Run) -> str:
    """Its page, which takes a second to draw."""
    return render(report)


class Page(HTMLParser):
    """Collects tags, references and text, and refuses tags that do not nest."""

    VOID = frozenset({"meta", "img", "br", "path", "use", "rect", "link"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_is_well_formed_and_refers_to_nothing_outside(html: str) -> None:
    page = Page(html)
    assert page.open == []
    assert "script" not in page.tags
    assert all(r.startswith(("data:image/png;base64,", "#")) for r in page.references)
    assert not re.search(r"url\((?!#)|@import", html)


def test_the_cards_show_the_scores_of_the_evaluation(report: Run, html: str) -> None:
    text = " ".join(Page(html).words)
    e = report.evaluation
    shown = (f"{e.accuracy:.2%}", f"{e.macro_f1:.4f}", f"{e.loss:.4f}", "1.23 M", "4.32 MB")
    for number in (*shown, f"{e.calibration_error:.4f}", "6 min 52 s", "1,234,567"):
        assert number in text


def test_text_from_outside_is_escaped(html: str) -> None:
    assert "<script>" not in html
    assert "<b>bold</b>" not in html
    assert "night &amp; day" in html


def test_every_count_of_the_confusion_matrix_is_in_the_page(report: Run, html: str) -> None:
    cells = re.findall(r'<td class="(?:hit|miss)"[^>]*>(\d*)</td>', html)
    assert [int(cell or 0) for cell in cells] == np.ravel(report.evaluation.confusion).tolist()


def test_the_worst_mistakes_are_shown_pixel_by_pixel_in_order(report: Run, html: str) -> None:
    worst = worst_mistakes(report.probabilities, report.labels, MISTAKES)
    pictures = [r for r in Page(html).references if r.startswith("data:")]
    assert len(pictures) == len(worst) > 0
    for index, picture in zip(worst, pictures, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(picture.split(",")[1]))) as image:
            np.testing.assert_array_equal(np.asarray(image), report.images[index])


def test_the_worst_mistakes_are_marked_where_they_looked(report: Run) -> None:
    index = int(worst_mistakes(report.probabilities, report.labels, 1)[0])
    looked_at = np.zeros((8, 8))
    looked_at[0, 7] = 2.0
    looked_at[7, 0] = -2.0
    text = render(replace(report, looked_at={index: looked_at}))
    (source,) = re.findall('<img class="heat" alt="" src="data:image/png;base64,([^"]+)"', text)
    with Image.open(io.BytesIO(base64.b64decode(source))) as image:
        alpha = np.asarray(image)[..., 3]
    assert np.argwhere(alpha).tolist() == [[0, 7]]


def test_a_run_without_mistakes_says_so() -> None:
    p = np.eye(3)[[0, 1, 2]]
    perfect = replace(
        run(3),
        evaluation=evaluate(p, [0, 1, 2], CLASSES),
        labels=np.arange(3),
        probabilities=p,
    )
    html = render(perfect)
    assert "every image was classified right" in html
    assert "confidence equals accuracy" in html


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.5, "0.5 s"), (59.6, "1 min 0 s"), (3720, "1 h 2 min")]
)
def test_durations_are_readable(seconds: float, shown: str) -> None:
    assert page._duration(seconds) == shown


def test_drawing_twice_gives_the_same_bytes(html: str, tmp_path: Path) -> None:
    write_report(run(), tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == html


def test_plots_are_written_as_png_and_svg(report: Run, tmp_path: Path) -> None:
    written = write_plots(report, tmp_path / "plots")
    assert sorted(written) == sorted((tmp_path / "plots").iterdir())
    assert {path.suffix for path in written} == {".png", ".svg"}
    assert {path.stem for path in written} == {
        "calibration",
        "confusion_matrix",
        "learning_curves",
        "machine",
        "per_class",
        "worst_mistakes",
    }


def test_each_mistake_is_an_image_named_after_what_went_wrong(report: Run, tmp_path: Path) -> None:
    written = write_mistakes(report, tmp_path / "mistakes")
    assert len(written) == MISTAKES
    worst = worst_mistakes(report.probabilities, report.labels, 1)[0]
    name = report.evaluation.classes[report.labels[worst]]
    assert written[0].name.startswith(f"01_{re.sub('[^A-Za-z0-9.-]+', '-', name)}_as_")
    with Image.open(written[0]) as image:
        np.testing.assert_array_equal(np.asarray(image), report.images[worst])


def test_a_run_without_samples_of_the_machine_has_no_section_of_it(html: str) -> None:
    assert "Machine" in html
    assert "Machine" not in render(replace(run(), system=()))


def test_augmented_samples_are_shown_beside_their_originals(report: Run, tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)
    shown = replace(report, augmented=samples)
    page, without = Page(render(shown)), Page(render(report))
    assert len(page.references) == len(without.references) + 1
    write_plots(shown, tmp_path)
    with Image.open(tmp_path / "augmentation.png") as image:
        sheet = np.asarray(image)
    assert sheet.shape == (2 * 9 - 1, 3 * 9 - 1, 3)
    np.testing.assert_array_equal(sheet[9:17, 18:26], samples[1, 2])


def test_samples_of_large_images_are_thinned() -> None:
    sheet = plots.contact_sheet(np.zeros((1, 2, 224, 200, 3), dtype=np.uint8))
    assert sheet.shape == (75, 67 * 2 + 1, 3)
