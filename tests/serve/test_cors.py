"""The application and AWS's HTTP API let browsers of other origins do the same."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.middleware.cors import CORSMiddleware

from serve.http.app import create_app
from serve.settings import Settings
from tests.serve.serving import bundled_predictor

SERVICE = Path("infra/terraform/roots/service")
API = (SERVICE / "api.tf").read_text(encoding="utf-8")


def gateways() -> dict[str, Any]:
    """The API's `cors_configuration`, but for the origins, which each deployment decides."""
    _, _, block = API.partition('dynamic "cors_configuration"')
    _, _, content = block.partition("content {")
    pairs = re.findall(r"^ +(\w+) += (\[.*\]|\d+)", content.partition("}")[0], re.MULTILINE)
    return {name: json.loads(value) for name, value in pairs}


def applications() -> dict[str, Any]:
    """What the application's middleware was made with, but for the origins."""
    settings = Settings(cpus=1, cors_origins=("https://app.example.org",))
    app = create_app(bundled_predictor(), settings)
    layers: dict[object, dict[str, Any]] = {one.cls: one.kwargs for one in app.user_middleware}
    said = layers[CORSMiddleware]
    return {name: value for name, value in said.items() if name != "allow_origins"}


def test_the_api_and_the_application_allow_the_same() -> None:
    assert gateways() == applications()


@pytest.mark.parametrize("name", ["allow_methods", "allow_headers", "expose_headers"])
def test_the_lists_name_something(name: str) -> None:
    assert gateways()[name]


def test_the_function_url_says_nothing_beside_the_application() -> None:
    assert "cors" not in (SERVICE / "function_url.tf").read_text(encoding="utf-8").lower()
