"""infra/terraform as sources: form, validity, descriptions, the scanner, and `terraform test`."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from infra.terraform.program import Installation
from infra.terraform.root import ROOTS, SOURCES, Root
from infra.terraform.state import LocalState
from tests.infra.terraform.aws import require_terraform
from tests.infra.terraform.provider import Provider

FILES = sorted(path for path in SOURCES.rglob("*.tf"))
CHECKOV = os.environ.get("KILN_CHECKOV", "")


@pytest.fixture(scope="module")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("provider")
    with Provider(require_terraform(), folder).attached(folder) as found:
        yield found


@pytest.fixture(scope="module", params=ROOTS)
def root(
    request: pytest.FixtureRequest,
    terraform: Installation,
    tmp_path_factory: pytest.TempPathFactory,
) -> Root:
    """Prepared, with neither AWS nor credentials."""
    folder = tmp_path_factory.mktemp("root")
    found = Root.open(
        request.param,
        "dev",
        state=LocalState(folder / "state"),
        work=folder / "work",
        console=Console(file=StringIO()),
        installation=terraform,
    )
    found.init()
    return found


def test_the_root_is_valid_and_its_tests_pass(root: Root) -> None:
    root.validate()
    if any(root.process.folder.glob("*.tftest.hcl")):
        said = root.process.text("test", "-no-color")
        assert re.search(r"Success! [1-9]\d* passed, 0 failed", said), said


def test_files_have_the_form_of_terraform_fmt() -> None:
    terraform = require_terraform()
    files = [*FILES, *SOURCES.rglob("*.tfvars"), *SOURCES.rglob("*.tftest.hcl")]
    done = subprocess.run(
        [terraform.program, "fmt", "-check", "-diff", *files],
        env=dict(terraform.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert not done.returncode, done.stdout.decode()


def test_variables_and_outputs_say_what_they_are() -> None:
    blocks = [
        (path, name, body)
        for path in FILES
        for name, body in re.findall(
            r'^(?:variable|output) "(\w+)" \{\n(.*?)^\}', path.read_text(), re.M | re.S
        )
    ]
    assert len(blocks) > 80
    for path, name, body in blocks:
        assert re.search(r"^  description\s*= \".{10,}", body, re.M), f"{path}: {name}"


def test_each_resource_wildcard_is_explained_where_it_stands() -> None:
    bare = [
        f"{path.relative_to(SOURCES)}:{number}: {line.strip()}"
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.match(r"\s*resources\s*=.*\*", line) and "#" not in line
    ]
    assert bare == [], "say in the line what the * stands for, or why no resource can be named"


def test_each_skip_of_the_scanner_has_a_reason() -> None:
    skips = [
        (path, check, reason)
        for path in FILES
        for check, reason in re.findall(r"checkov:skip=(\w+):?(.*)", path.read_text())
    ]
    assert skips
    for path, check, reason in skips:
        assert len(reason) > 10, f"{path}: {check} is skipped without a reason"


def test_the_scanner_finds_nothing(tmp_path: Path) -> None:
    if not CHECKOV:
        pytest.skip("checkov: bazel test //tests/infra/terraform")
    arguments = ["--framework", "terraform", "--output", "json", "--skip-download", "--quiet"]
    done = subprocess.run(
        [os.path.abspath(CHECKOV), "--directory", str(_plain_copy(tmp_path)), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"HOME": str(tmp_path)},
    )
    found = json.loads(done.stdout)
    failed = [
        f"{check['check_id']} {check['resource']} {check['file_path']}: {check['check_name']}"
        for check in found["results"]["failed_checks"]
    ]
    assert failed == []
    assert found["summary"]["passed"] > 200, "the scanner looked at next to nothing"
    assert found["summary"]["parsing_errors"] == 0


def _plain_copy(folder: Path) -> Path:
    """Files instead of the links of Bazel's runfiles, which the scanner does not follow."""
    for path in [*FILES, *SOURCES.rglob("*.tf.json"), *SOURCES.rglob("*.tftpl")]:
        place = folder / "terraform" / path.relative_to(SOURCES)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    return folder / "terraform"
