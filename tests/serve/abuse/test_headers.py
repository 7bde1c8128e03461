"""Answers carry what protects whoever reads them, and nothing that a caller put into a header."""

import re
from collections.abc import Iterator

import pytest

from tests.serve.abuse.attacks import EVIL, FORGED, METHODS
from tests.serve.abuse.wire import Response, Target, target

PAGES = ("/", "/docs")
KNOWN = {
    *("allow", "cache-control", "connection", "content-length", "content-security-policy"),
    *("content-type", "date", "etag", "referrer-policy", "x-content-type-options"),
    *("x-model-version", "x-request-id"),
}
DIRECTIVES = {
    *("default-src", "script-src", "style-src", "connect-src", "img-src"),
    *("base-uri", "form-action", "frame-ancestors"),
}
SOURCES = {"'none'", "'self'", "data:", "blob:"}


@pytest.fixture(scope="module")
def server() -> Iterator[Target]:
    with target() as up:
        yield up


def assert_safe(answer: Response) -> None:
    """Nothing but the headers that are known, each with a value that a reader takes as it is."""
    assert set(answer.headers) <= KNOWN, "a banner, a cookie, or what nobody expected"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    for value in answer.headers.values():
        assert value.isascii()
        assert value.isprintable()


@pytest.mark.parametrize("name", FORGED)
def test_no_answer_repeats_a_header(server: Target, name: str) -> None:
    for path in ("/", "/health", "/openapi.json", "/nowhere", "/docs/"):
        line = f"GET {path} HTTP/1.1\r\n".encode()
        host = b"" if FORGED[name].startswith(b"Host:") else b"Host: x\r\n"
        [answer], _ = server.answers(line + host + FORGED[name] + b"\r\n\r\n")
        assert answer.status == (200 if path in ("/", "/health", "/openapi.json") else 404)
        assert_safe(answer)
        assert EVIL not in (answer.head + answer.body).decode()
        assert "location" not in answer.headers


@pytest.mark.parametrize("name", METHODS)
def test_a_path_takes_its_own_methods_alone(server: Target, name: str) -> None:
    line, headers = METHODS[name]
    answer = server.raw(line, b"", *headers)
    assert answer.status == 405
    assert answer.problem["type"] == "urn:kiln:problem:method-not-allowed"
    assert EVIL not in (answer.head + answer.body).decode()
    assert_safe(answer)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_loads_nothing_from_elsewhere_and_is_in_nobodys_frame(
    server: Target, path: str
) -> None:
    answer = server.ask("GET", path)
    assert_safe(answer)
    assert answer.headers["referrer-policy"] == "no-referrer"
    policy = policy_of(answer)
    assert set(policy) == DIRECTIVES
    assert policy["default-src"] == {"'none'"}
    assert policy["frame-ancestors"] == {"'none'"}
    assert policy["base-uri"] == policy["form-action"] == {"'none'"}
    assert set.union(*policy.values()) <= SOURCES, "no unsafe-…, no *, no host, no scheme"
    assert policy["script-src"] == policy["style-src"] == {"'self'"}


@pytest.mark.parametrize("path", PAGES)
def test_a_page_needs_nothing_that_its_policy_forbids(server: Target, path: str) -> None:
    page = server.ask("GET", path).body.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)", page), "a script within the page"
    assert not re.search(r"<style|\bstyle=|\son\w+=|javascript:", page)
    named = re.findall(r'\b(?:src|action|data)="([^"]*)"|<link[^>]*href="([^"]*)"', page)
    assert not [one for pair in named for one in pair if re.match(r"\w+:|//", one)]


def policy_of(answer: Response) -> dict[str, set[str]]:
    """Directives and their sources; a second policy or a directive twice would be an error."""
    parts = [part.split() for part in answer.headers["content-security-policy"].split(";")]
    policy = {name: set(sources) for name, *sources in parts}
    assert len(policy) == len(parts)
    return policy
