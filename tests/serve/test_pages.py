"""serve/site: the demo and the documentation, in a real browser."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from serve.http.keys import new_key
from serve.http.routes import ENDPOINTS
from tests.helpers.browser import chromium, needs_browser
from tests.serve.server_process import Server, running
from tests.serve.serving import image_file, pixels

PATIENCE_MS = 60_000

pytestmark = needs_browser

GIVE_FILE = """([kind, bytes]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(bytes)], "given.png", { type: "image/png" }));
    const event = kind === "paste"
        ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true })
        : new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
    document.body.dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as up:
        yield up


class Visit:
    """A page, what it asked for, and what it complained of."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self.complaints.append(message.text))

    def see(self, url: str) -> Page:
        self.page.goto(url)
        return self.page

    def foreign(self, server: Server) -> list[str]:
        ours = (f"http://127.0.0.1:{server.port}/", "data:", "blob:")
        return [url for url in self.asked if not url.startswith(ours)]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    page = browser.new_page()
    yield Visit(page)
    page.close()


def address(server: Server, path: str = "/") -> str:
    return f"http://127.0.0.1:{server.port}{path}"


def answered(page: Page) -> None:
    expect(page.get_by_role("status").locator("strong")).to_be_visible(timeout=PATIENCE_MS)
    expect(page.get_by_label("Probability of each class").get_by_role("listitem")).to_have_count(10)


def test_a_sample_is_classified_and_nothing_comes_from_elsewhere(
    visit: Visit, server: Server
) -> None:
    page = visit.see(address(server))
    expect(page.locator("#model")).to_contain_text("test images")
    page.get_by_role("button", name="Sample: frog").click()
    answered(page)
    shares = page.locator(".bars .value").all_inner_texts()
    assert sum(float(share.rstrip(" %")) for share in shares) == pytest.approx(100, abs=1)
    expect(page.get_by_text("Round trip")).to_be_visible()
    assert visit.foreign(server) == []
    assert visit.complaints == []


def test_the_page_shows_what_the_answer_looked_at(visit: Visit, server: Server) -> None:
    page = visit.see(address(server))
    page.get_by_label("Show what the answer looked at").check()
    page.get_by_role("button", name="Sample: frog").click()
    answered(page)
    expect(page.locator("#legend")).to_contain_text("times smaller")
    expect(page.locator("#map")).to_be_visible()
    drawn = (
        "[...document.querySelector('#map').getContext('2d').getImageData(0, 0, 9999, 999).data]"
    )
    assert page.evaluate(f"{drawn}.some((value) => value > 0)")
    page.get_by_label("Show what the answer looked at").uncheck()
    expect(page.locator("#map")).to_be_hidden()
    assert visit.complaints == []


def test_the_page_is_used_by_keyboard_alone(visit: Visit, server: Server) -> None:
    page = visit.see(address(server))
    page.get_by_role("button", name="Sample: airplane").wait_for()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "file":
            break
    else:
        pytest.fail("the choice of a file was not reached")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.title") == "airplane"
    page.keyboard.press("Enter")
    answered(page)


def test_a_chosen_file_is_classified(visit: Visit, server: Server, tmp_path: Path) -> None:
    path = tmp_path / "mine.webp"
    path.write_bytes(image_file(pixels(1, 50, 80), "WEBP"))
    page = visit.see(address(server))
    page.locator("#file").set_input_files(path)
    answered(page)
    assert page.locator("#preview").get_attribute("alt") == "mine.webp"


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_a_picture_may_be_pasted_and_dropped(visit: Visit, server: Server, kind: str) -> None:
    page = visit.see(address(server))
    page.get_by_role("button", name="Sample: airplane").wait_for()
    page.evaluate(GIVE_FILE, [kind, list(image_file(pixels()))])
    answered(page)


def test_a_picture_that_is_too_large_is_reduced_by_the_browser(
    visit: Visit, server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "large.bmp"
    path.write_bytes(image_file(pixels(1, 1500, 1500), "BMP"))
    page = visit.see(address(server))
    page.locator("#file").set_input_files(path)
    answered(page)


def test_what_is_no_picture_is_explained(visit: Visit, server: Server, tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(image_file(pixels())[:200])
    page = visit.see(address(server))
    page.locator("#file").set_input_files(path)
    expect(page.get_by_role("alert")).to_contain_text("damaged or cut short")
    page.get_by_role("button", name="Sample: frog").click()
    answered(page)
    expect(page.get_by_role("alert")).to_be_hidden()


def test_the_page_follows_the_readers_colours(browser: Browser, server: Server) -> None:
    backgrounds = set()
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(address(server))
        backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.close()
    assert len(backgrounds) == 2


def test_the_documentation_lists_and_tries_every_operation(visit: Visit, server: Server) -> None:
    page = visit.see(address(server, "/docs"))
    expect(page.get_by_role("article")).to_have_count(len(ENDPOINTS))
    predict = page.get_by_role("article").filter(has_text="Classify one image")
    predict.get_by_text("Try it").click()
    predict.get_by_role("textbox").wait_for()
    page.wait_for_function("document.querySelector('textarea').value.length > 100")
    predict.get_by_role("button", name="Send").click()
    expect(predict.locator("pre").last).to_contain_text('"label"')
    health = page.get_by_role("article").filter(has_text="Whether the process is alive")
    health.get_by_text("Try it").click()
    health.get_by_role("button", name="Send").click()
    expect(health.locator("pre").last).to_contain_text('"status": "ok"')
    feedback = page.get_by_role("article").filter(has_text="Send the correct label")
    expect(feedback.locator("summary", has_text="Errors")).to_have_text(re.compile("^Errors: 4"))
    feedback.get_by_text("Try it").click()
    last_answer = re.compile('"request_id":"(?!0{32})[0-9a-f]{32}"')
    expect(feedback.get_by_role("textbox")).to_have_value(last_answer)
    infer = page.get_by_role("article").filter(has_text="classify images").first
    infer.get_by_text("Try it").click()
    infer.get_by_role("textbox").wait_for()
    expect(infer.get_by_role("textbox")).to_have_value(re.compile(".{100}"))
    infer.get_by_role("button", name="Send").click()
    expect(infer.locator("pre").last).to_contain_text('"model_name"')
    assert visit.foreign(server) == []
    assert visit.complaints == []


def test_pages_work_below_a_prefix_and_ask_for_a_key(visit: Visit) -> None:
    key, digest = new_key()
    with running(KILN_ROOT_PATH="/prod", KILN_API_KEYS=digest) as server:
        page = visit.see(address(server, "/prod/docs"))
        expect(page.get_by_role("article")).to_have_count(len(ENDPOINTS))
        page.get_by_role("link", name="Demo").click()
        page.get_by_role("button", name="Sample: ship").click()
        expect(page.get_by_role("alert")).to_contain_text("API key is missing")
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Use").click()
        answered(page)
    below = address(server, "/prod/")
    assert [
        url for url in visit.asked if url.startswith("http") and not url.startswith(below)
    ] == []
