"""The image as a container: unprivileged, on a read-only root, without a shell."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from infra.twin.image.container import Root, running
from tests.serve.image import built
from tests.serve.image.http_service import Service, serving
from tests.serve.serving import base64_of, image_file, pixels

pytestmark = built.needs_image
root = built.root


@pytest.fixture(scope="module")
def service(root: Root) -> Iterator[Service]:
    with serving(root) as service:
        yield service


def python(root: Root, program: str) -> tuple[int, str]:
    """Exit code and output of a program in the container."""
    inside = root.but(entrypoint=("/usr/bin/python3", "-c", program))
    with running(inside, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as container:
        output, _ = container.process.communicate(timeout=60)
    return container.process.returncode, output.decode()


def test_it_is_ready_and_predicts(service: Service) -> None:
    status, answer = service.request("/predict", {"image": base64_of(image_file(pixels()))})
    assert status == 200, answer
    assert 0 < answer["probability"] <= 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_it_decodes_every_format_that_the_service_takes(service: Service, kind: str) -> None:
    # The layer of packages leaves out libraries of Pillow that these do not need.
    image = image_file(pixels(height=300, width=200), kind)
    status, answer = service.request("/predict", {"image": base64_of(image)})
    assert status == 200, answer


def test_its_pages_came_along(service: Service) -> None:
    status, document = service.request("/openapi.json")
    assert status == 200
    assert document["openapi"].startswith("3.1")


def test_it_runs_as_an_unprivileged_user(root: Root) -> None:
    assert python(root, "import os; print(os.getuid(), os.getgid())") == (0, "65532 65532\n")


def test_only_temporary_files_can_be_written(root: Root) -> None:
    code, output = python(root, "open('/var/task/x', 'w')")
    assert code == 1
    assert "Read-only file system" in output
    assert python(root, "import tempfile; tempfile.TemporaryFile().write(b'x')")[0] == 0


def test_it_has_no_shell(root: Root) -> None:
    code, output = python(root, "import subprocess; subprocess.run('ls', shell=True)")
    assert code == 1
    assert "No such file or directory: '/bin/sh'" in output


def test_nothing_is_compiled_at_start(root: Root) -> None:
    program = """
import sys
sys.path.insert(0, "/var/task")
import serve.aws_lambda.handler, serve.server.server, awslambdaric.bootstrap, pathlib
files = [m.__spec__ for m in sys.modules.values() if getattr(m, "__spec__", None)]
print({s.name for s in files if s.cached and not pathlib.Path(s.cached).exists()})
"""
    code, output = python(root, program)
    assert code == 0, output
    # One line that Debian links from /etc.
    assert output.splitlines()[-1] in ("set()", "{'sitecustomize'}"), output


def test_sigterm_ends_it_well(root: Root) -> None:
    with serving(root) as service:
        service.container.terminate()
        assert service.container.process.wait(60) == 0


def test_a_setting_that_makes_no_sense_is_explained(root: Root) -> None:
    with running(root, {"KILN_PORT": "http"}, stderr=subprocess.PIPE) as container:
        _, errors = container.process.communicate(timeout=60)
    assert container.process.returncode == 2
    assert b"KILN_PORT is 'http', expected a whole number" in errors
