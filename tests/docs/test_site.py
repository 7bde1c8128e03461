"""The documentation site: //docs:api as it is built, //docs:serve as people use it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest
from playwright.sync_api import Page, expect

from tests.helpers.browser import chromium, needs_browser

MODULES = [Path(name) for name in os.environ["MODULES"].split()]
COPY, BUILD, SERVE = (Path(os.environ[name]).absolute() for name in ("COPY", "BUILD", "SERVE"))
SITE = Path("docs/api").absolute()
_REFERENCE = re.compile(r'<(\w+)[^>]*?\s(?:href|src)="?([^"\s>]*)')
_ID = re.compile(r'\sid="?([^"\s>]*)')
_LOADING = {"script", "img", "iframe", "link"}


@pytest.fixture(scope="module")
def pages() -> dict[Path, str]:
    return {path: path.read_text("utf-8") for path in SITE.rglob("*.html")}


def test_every_module_and_every_readme_has_a_page(pages: dict[Path, str]) -> None:
    for module in MODULES:
        assert (
            f'id="{".".join(module.with_suffix("").parts)}"'
            in pages[SITE / module.with_suffix(".html")]
        )
    for name in os.environ["PAGES"].split():
        if name.endswith("/README.md") and not name.startswith("."):
            assert SITE / Path(name).with_name("index.html") in pages


def test_links_lead_somewhere(pages: dict[Path, str]) -> None:
    ids = {path: set(map(unescape, _ID.findall(text))) for path, text in pages.items()}
    for path, text in pages.items():
        if path.name == "404.html":  # its links start at the root of a server
            continue
        for _, link in set(_REFERENCE.findall(text)):
            if not re.match(r"\w+:", link):
                name, _, anchor = unquote(unescape(link)).partition("#")
                target = Path(os.path.normpath(path.parent / name)) if name else path
                assert target.exists(), f"{path}: {link}"
                assert not anchor or anchor in ids[target] or anchor == "__", f"{path}: {link}"


def test_nothing_is_loaded_from_elsewhere(pages: dict[Path, str]) -> None:
    loaded = [_REFERENCE.findall(text) for text in pages.values()]
    found = {link for references in loaded for tag, link in references if tag in _LOADING}
    assert not [link for link in found if re.match(r"\w+:|//", link)]
    for style in SITE.rglob("*.css"):
        assert not re.search(r"url\(\W?(?:https?:|//)|@import", style.read_text("utf-8")), style


def test_types_lead_to_their_pages_and_comments_describe_fields(pages: dict[Path, str]) -> None:
    registry = pages[SITE / "ml/registry/registry.html"]
    assert 'id="ml.registry.registry.Registry.promote"' in registry
    assert 'href="ledger.html#ml.registry.ledger.Record"' in registry
    artifact = pages[SITE / "common/model/artifact.html"]
    field = artifact.partition('id="common.model.artifact.Scores.loss"')[2]
    assert "mean cross-entropy, nats" in field[:3000]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small repository."""
    files = {
        "README.md": "# Shapes\n\n[area](geometry/area.py), [all](geometry), [sizes](sizes.toml)\n",
        "sizes.toml": "edge = 2\n",
        "geometry/area.py": '"""Areas."""\n\nEDGE = 2  # in metres\n',
        "docs/mkdocs.yml": Path("docs/mkdocs.yml").read_text("utf-8"),
    }
    for name, text in files.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(text)
    return tmp_path / "tree"


def built(root: Path, *files: str) -> subprocess.CompletedProcess[str]:
    """The site of some files, beside their root."""
    output = root.with_name(f"{root.name}-site")
    command = [str(BUILD), "--root", str(root), "--output", str(output), *files]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_equal_sources_elsewhere_and_in_another_order_give_equal_bytes(tree: Path) -> None:
    files = ["README.md", "sizes.toml", "geometry/area.py"]
    again = shutil.copytree(tree, tree.with_name("again"))
    for root, names in ((tree, files), (again, files[::-1])):
        done = built(root, *names)
        assert done.returncode == 0, done.stderr
    sites = [tree.with_name(f"{root.name}-site") for root in (tree, again)]
    first, second = (
        {p.relative_to(s): p.read_bytes() for p in s.rglob("*.*") if p.is_file()} for s in sites
    )
    assert first == second
    assert b"in metres" in first[Path("geometry/area.html")]
    assert b"Areas." in first[Path("geometry/index.html")]
    assert b"edge" in first[Path("sizes.toml.html")]


def test_a_link_that_leads_nowhere_fails_the_build(tree: Path) -> None:
    (tree / "README.md").write_text("# Shapes\n\n[gone](geometry/volume.py)\n")
    done = built(tree, "README.md", "geometry/area.py")
    assert done.returncode == 1
    assert "geometry/volume" in done.stderr


def copied(*arguments: str, typed_in: Path) -> subprocess.CompletedProcess[str]:
    """What `bazel run //docs:api` does."""
    environ = os.environ | {"BUILD_WORKING_DIRECTORY": str(typed_in)}
    return subprocess.run(
        [COPY, *arguments], env=environ, capture_output=True, text=True, check=False
    )


def test_the_site_is_copied_to_where_the_command_was_typed_and_over_an_older_one(
    tmp_path: Path,
) -> None:
    assert copied("a site/", typed_in=tmp_path).returncode == 0
    gone = tmp_path / "a site" / "gone.html"
    gone.write_text("old")
    again = copied("a site/", typed_in=tmp_path)
    assert again.stdout == f"{tmp_path / 'a site' / 'index.html'}\n", again.stderr
    assert not gone.exists()
    assert (tmp_path / "a site" / "index.html").read_bytes() == (SITE / "index.html").read_bytes()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    assert copied(".", typed_in=tmp_path).returncode == 2
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


@pytest.mark.parametrize(("arguments", "code"), [((), 2), (("--help",), 0), (("--what",), 2)])
def test_without_a_folder_the_command_says_how_it_is_used(
    arguments: tuple[str, ...], code: int, tmp_path: Path
) -> None:
    said = copied(*arguments, typed_in=tmp_path)
    assert (said.returncode, said.stdout[:6]) == (code, "usage:")


@pytest.fixture
def address() -> Iterator[str]:
    """Of `bazel run //docs:serve`."""
    command = [str(SERVE), "--site", str(SITE), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        yield re.findall(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())[0]
        server.terminate()


def test_a_port_that_is_taken_is_told(address: str) -> None:
    port = address.rpartition(":")[2].rstrip("/")
    second = subprocess.run([SERVE, "--site", SITE, "--port", port], capture_output=True, text=True)
    assert (second.returncode, second.stdout) == (2, "")


@pytest.fixture
def page() -> Iterator[Page]:
    """A browser's page that complains about nothing and asks for nothing from elsewhere."""
    complaints, asked = list[str](), list[str]()
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        yield page
    assert complaints == []
    assert not [url for url in asked if re.match(r"https?://(?!127\.0\.0\.1:)", url)]


def search(page: Page, words: str) -> None:
    """As a reader would: by the keyboard, until something is found."""
    page.keyboard.press("/")
    page.keyboard.type(words)
    expect(page.locator(".md-search-result__link").first).to_be_visible(timeout=60_000)


@needs_browser
def test_the_search_finds_modules_and_diagrams_are_drawn(page: Page, address: str) -> None:
    page.goto(address)
    if (SITE / "assets/mermaid.js").exists():
        expect(page.locator("div.mermaid")).to_be_visible(timeout=60_000)
    search(page, "temperature scaling")
    found = page.locator(".md-search-result__link")
    addresses = [link.get_attribute("href") or "" for link in found.all()]
    assert any("ml/artifact/weights.html" in address for address in addresses), addresses


@needs_browser
@pytest.mark.skipif(
    not (SITE / "assets/iframe-worker.js").exists(),
    reason="its script comes by npm: apt-get install npm",
)
def test_the_search_works_from_disk(page: Page) -> None:
    page.goto((SITE / "index.html").as_uri())
    search(page, "model registry")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/*.html?h=*")
