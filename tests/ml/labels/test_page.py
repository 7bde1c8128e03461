"""ml/labels/page.html in a real browser, from the command that people type."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from common.captures import Captures
from ml.data.cifar10 import CLASSES
from ml.labels.label import labelling_app
from ml.labels.session import Session
from tests.helpers.browser import chromium, needs_browser
from tests.ml.labels.serving import serving
from tests.ml.labels.store import answer, filled

pytestmark = needs_browser
MODEL = Path("ml/bundled/model.onnx").absolute()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    opened = browser.new_page()
    opened.set_default_timeout(60_000)
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda message: complaints.append(message.text))
    yield opened
    opened.close()
    assert [text for text in complaints if "ERR_CONNECTION_REFUSED" not in text] == []


class Labelling:
    """`bazel run //ml:label` of one labeller."""

    def __init__(self, store: Path, *arguments: str) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "ml.labels.label", "--captures", str(store), *arguments]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        for line in self.process.stdout:
            if line.startswith("http://127.0.0.1:"):
                self.url = line.strip()
                return
        raise AssertionError(self.process.stderr.read())

    def end(self, by: signal.Signals = signal.SIGINT) -> str:
        self.process.send_signal(by)
        said, problems = self.process.communicate(timeout=60)
        assert by == signal.SIGKILL or self.process.returncode == 0, problems
        return said


def store(folder: Path, count: int, classes: int = 10) -> Captures:
    return filled(folder, [answer(number, classes=classes) for number in range(count)])


def counted(page: Page, done: int, total: int) -> None:
    expect(page.locator("#count")).to_have_text(f"{done} of {total}")


def test_images_are_labelled_by_keys_and_a_kill_loses_nothing(page: Page, tmp_path: Path) -> None:
    captures = store(tmp_path, 8)
    labelling = Labelling(tmp_path, "--labeller", "ada", "--model", str(MODEL))
    page.goto(labelling.url)
    counted(page, 0, 8)
    expect(page.locator("#image")).to_have_js_property("naturalWidth", 32)
    expect(page.locator("#answer")).to_be_hidden()
    page.keyboard.press("3")
    counted(page, 1, 8)
    expect(page.locator("#last")).to_contain_text("cat")
    page.keyboard.press("Backspace")
    counted(page, 0, 8)
    page.keyboard.press("5")
    counted(page, 1, 8)
    put_off = str(page.locator("#image").get_attribute("src"))
    page.keyboard.press("s")
    expect(page.locator("#image")).not_to_have_attribute("src", put_off)  # keys until then are lost
    page.get_by_role("button", name="truck").click()
    counted(page, 2, 8)
    labelling.end(signal.SIGKILL)
    page.keyboard.press("1")
    expect(page.get_by_role("alert")).to_contain_text("//ml:label")
    assert sorted(str(v.label) for v in captures.verdicts().values()) == ["dog", "truck"]
    page.goto("about:blank")
    labelling = Labelling(tmp_path, "--labeller", "ada", "--model", str(MODEL))
    page.goto(labelling.url)
    counted(page, 2, 8)
    for done in range(3, 9):
        page.keyboard.press("0")
        expect(page.locator("#count")).to_have_text(f"{done} of 8")
    expect(page.get_by_role("heading")).to_have_text("This round is labelled")
    page.keyboard.press("n")
    expect(page.get_by_role("heading")).to_have_text("Nothing is left to label")
    page.goto("about:blank")
    assert "8 of 8" in labelling.end()


def test_a_hundred_classes_take_two_keys_or_a_search(page: Page, tmp_path: Path) -> None:
    names = [f"{CLASSES[n % 10]} {n}" for n in range(60)]
    captures = store(tmp_path, 4, classes=60)
    session = Session(captures, "ada", names, lambda _: None)
    with serving(lambda token, port: labelling_app(session, token, port)) as url:
        page.goto(url)
        counted(page, 0, 4)
        page.keyboard.type("07")
        counted(page, 1, 4)
        page.keyboard.press("/")
        page.keyboard.type("dog 5")  # dog 5 comes before dog 55
        page.keyboard.press("Enter")
        counted(page, 2, 4)
        page.keyboard.type("99")  # of none
        page.keyboard.type("1")
        page.keyboard.press("Backspace")
        page.keyboard.type("42")
        counted(page, 3, 4)
    said = sorted(str(v.label) for v in captures.verdicts().values())
    assert said == sorted([names[7], names[5], names[42]])


def test_agreement_is_shown_and_thirty_images_a_minute_are_no_effort(
    page: Page, tmp_path: Path
) -> None:
    captures = store(tmp_path, 20)
    for labeller in ("ada", "ben"):
        session = Session(captures, labeller, CLASSES, lambda _: None)
        with serving(lambda token, port, one=session: labelling_app(one, token, port)) as url:  # type: ignore[misc]
            page.goto(url)
            counted(page, 0, 20)
            start = time.monotonic()
            for done in range(1, 21):
                page.keyboard.press(str(done % 2))
                expect(page.locator("#count")).to_have_text(f"{done} of 20")
            elapsed_s = time.monotonic() - start
            if labeller == "ben":
                expect(page.locator("#agreement")).to_contain_text("ada, ben")
                expect(page.locator("#agreement")).to_contain_text("1.00")
            page.goto("about:blank")
        assert elapsed_s < 40  # 30 a minute
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{24}/", url)
