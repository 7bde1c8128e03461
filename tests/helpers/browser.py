"""Debian's Chromium, driven by playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

_CHROMIUM = shutil.which("chromium")
needs_browser = pytest.mark.skipif(
    _CHROMIUM is None, reason="needs a browser: apt-get install --no-install-recommends chromium"
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that asks nobody for anything by itself."""
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    arguments.append("--disable-background-networking")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=arguments)
        yield browser
        browser.close()
