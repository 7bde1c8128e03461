"""//docs:api: the pages of the Python API, as they are built."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tools.api_docs import reading
from tools.api_docs.main import main
from tools.api_docs.pages import Outline
from tools.api_docs.reading import Sources

MODULES = [Path(name) for name in os.environ["MODULES"].split()]
COPY = Path(os.environ["COPY"]).absolute()  # what `bazel run //docs:api` starts
PAGES = Path("docs/api")
OUTLINE = Path("docs/api.toml")
CHROMIUM = shutil.which("chromium")
# What makes a browser load something.
_LOADING = {("script", "src"), ("img", "src"), ("iframe", "src"), ("link", "href")}


class Document(HTMLParser):
    """What a page refers to, what it loads, and where it can be pointed at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif (tag, name) in _LOADING:
                self.loaded.append(value or "")
            elif name == "href":
                self.links.append(value or "")


@pytest.fixture(scope="module")
def documents() -> dict[str, Document]:
    return {path.name: Document(path.read_text("utf-8")) for path in PAGES.glob("*.html")}


@pytest.fixture(scope="module")
def sources() -> Sources:
    return Sources(Path(), MODULES)


def text_of(page: str, anchor: str) -> str:
    """From an anchor to the next definition, without tags."""
    page = (PAGES / page).read_text("utf-8")
    rest = page.split(f'id="{anchor}"', 1)[1]
    return " ".join(re.sub(r"<[^>]*>", " ", re.split(r"<details>", rest)[0]).split())


def test_every_module_has_a_page_and_stands_in_the_index(documents: dict[str, Document]) -> None:
    expected = {".".join(path.with_suffix("").parts) + ".html" for path in MODULES}
    assert len(expected) > 200
    assert documents.keys() == expected | {"index.html"}
    assert expected <= set(documents["index.html"].links)


def test_links_lead_somewhere(documents: dict[str, Document]) -> None:
    for name, document in documents.items():
        for link in document.links:
            page, _, anchor = link.partition("#")
            target = documents[page or name]
            assert not anchor or anchor in target.ids, f"{name}: {link}"


def test_what_the_search_finds_is_there(documents: dict[str, Document]) -> None:
    found = (PAGES / "names.js").read_text("utf-8").removeprefix("const NAMES = ").rstrip(";\n")
    for name, _, address, _ in json.loads(found):
        page, _, anchor = address.partition("#")
        assert page in documents, name
        assert not anchor or anchor in documents[page].ids, name


def test_no_place_has_two_names(documents: dict[str, Document]) -> None:
    for name, document in documents.items():
        assert len(document.ids) == len(set(document.ids)), name


def test_nothing_is_loaded_from_elsewhere(documents: dict[str, Document]) -> None:
    loaded = {address for document in documents.values() for address in document.loaded}
    assert loaded == {"search.js", "style.css"}
    assert not re.search(r"url\(|@import", (PAGES / "style.css").read_text("utf-8"))
    assert not re.search("https?:|fetch|import", (PAGES / "search.js").read_text("utf-8"))


def test_a_function_shows_its_signature_arguments_and_errors() -> None:
    shown = text_of("ml.registry.registry.html", "Registry.promote")
    assert "alias : str = CHAMPION" in shown
    assert "→ Record | None Points an alias at a registered version" in shown
    assert "Arguments verdict, evidence what the gates said" in shown
    assert "Returns The record, or None" in shown
    assert "Raises Conflict somebody moved the alias" in shown


def test_types_lead_to_their_pages(documents: dict[str, Document]) -> None:
    links = documents["ml.registry.registry.html"].links
    assert "ml.registry.ledger.html#Record" in links, "of a signature"
    assert "common.objects.html#Conflict" in links, "of Raises"
    assert "ml.registry.versions.html#Versions.add" in links, "of a name in backticks"


def test_the_comment_behind_a_field_is_shown() -> None:
    shown = text_of("common.model.artifact.html", "ArtifactMetadata.input_size")
    assert "input_size : tuple[int, int] height, width in pixels" in shown


def test_a_second_run_elsewhere_and_in_another_order_gives_the_same_bytes(tmp_path: Path) -> None:
    for path in MODULES:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / path)
    again, names = tmp_path / "again", map(str, reversed(MODULES))
    wanted = ["--outline", str(OUTLINE), "--output", str(again), "--root", str(tmp_path)]
    assert main([*wanted, *names]) == 0
    assert sorted(p.name for p in again.iterdir()) == sorted(p.name for p in PAGES.iterdir())
    different = [p.name for p in again.iterdir() if p.read_bytes() != (PAGES / p.name).read_bytes()]
    assert different == []


def test_the_interfaces_have_a_docstring_everywhere(sources: Sources) -> None:
    named = {name for group in Outline.read(OUTLINE).interfaces for name in group.modules}
    interfaces = [source for source in sources.modules if source.name in named]
    assert len(interfaces) == len(named)
    silent = [
        thing.path
        for source in interfaces
        for thing, is_told in reading.described(source)
        if not is_told
    ]
    assert silent == []


def test_every_section_of_every_docstring_can_be_read(sources: Sources) -> None:
    assert [line for source in sources.modules for line in reading.complaints(source)] == []


def copied(*arguments: str, typed_in: Path) -> subprocess.CompletedProcess[str]:
    """What `bazel run //docs:api` does."""
    environ = os.environ | {"BUILD_WORKING_DIRECTORY": str(typed_in)}
    return subprocess.run(
        [COPY, *arguments], env=environ, capture_output=True, text=True, check=False
    )


def test_pages_are_copied_to_where_the_command_was_typed_and_over_older_ones(
    tmp_path: Path,
) -> None:
    assert copied("a site/", typed_in=tmp_path).returncode == 0
    gone = tmp_path / "a site" / "a.module.that.is.gone.html"
    gone.write_text("old")
    again = copied("a site/", typed_in=tmp_path)
    assert again.stdout == f"{tmp_path / 'a site' / 'index.html'}\n", again.stderr
    assert not gone.exists()
    written = (tmp_path / "a site" / "index.html").read_bytes()
    assert written == (PAGES / "index.html").read_bytes()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    refused = copied(".", typed_in=tmp_path)
    assert refused.returncode == 2
    assert "name a new or an empty folder" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


@pytest.mark.parametrize(("arguments", "code"), [((), 2), (("--help",), 0), (("--what",), 2)])
def test_without_a_folder_the_command_says_how_it_is_used(
    arguments: tuple[str, ...], code: int, tmp_path: Path
) -> None:
    said = copied(*arguments, typed_in=tmp_path)
    assert said.returncode == code
    assert "bazel run //docs:api -- FOLDER" in said.stdout


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser.new_page()
        browser.close()


@pytest.mark.skipif(
    CHROMIUM is None, reason="needs a browser: apt-get install --no-install-recommends chromium"
)
def test_the_search_works_from_disk(page: Page) -> None:
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.set_default_timeout(60_000)
    page.goto((PAGES / "index.html").absolute().as_uri())
    page.keyboard.press("/")
    page.keyboard.type("Registry.promote")
    expect(page.locator("#found .chosen")).to_contain_text("Registry.promote")
    page.keyboard.press("Enter")
    page.wait_for_url("**/ml.registry.registry.html#Registry.promote")
    assert complaints == []
