"""A function as a process of this machine's Python, without the image around it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.twin.cloud.runtime_api import RuntimeApi, runtime_api
from serve.image import boot
from tests.serve.aws_lambda.events import http_api, status_and_json
from tests.serve.serving import MODEL


@dataclass
class LocalFunction:
    """One execution environment."""

    api: RuntimeApi
    process: subprocess.Popen[bytes]
    log: Path  # what it wrote

    def ask(self, method: str, path: str, content: bytes | None = None, **headers: str) -> Any:
        """(status, JSON) of a request through an HTTP API; thaws a function that is frozen."""
        self.process.send_signal(signal.SIGCONT)
        headers = {"content-type": "application/json", **headers}
        return status_and_json(self.api.invoke(http_api(method, path, content, headers)))

    def freeze_after_each_answer(self) -> None:
        """From now on, as Lambda does it; it does not get to do anything else."""
        self.api.on_answer = lambda: self.process.send_signal(signal.SIGSTOP)


@contextmanager
def local_function(folder: Path, environment: Mapping[str, str]) -> Iterator[LocalFunction]:
    """Runs for as long as the block does, then is killed, as Lambda kills it."""
    log = folder / "function.log"
    with runtime_api() as api, log.open("wb") as file:
        variables = {
            "AWS_LAMBDA_RUNTIME_API": api.address,
            "AWS_LAMBDA_FUNCTION_NAME": "kiln",
            "AWS_REGION": "eu-central-1",
            "KILN_MODEL": str(MODEL.absolute()),
            "KILN_DEADLINE_MS": "60000",  # the machine may be busy
            "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path),
            "PATH": os.defpath,
            "HOME": str(folder),
            **environment,
        }
        command = [sys.executable, boot.__file__]
        with subprocess.Popen(command, env=variables, stdout=file, stderr=file) as process:
            try:
                yield LocalFunction(api, process, log)
            finally:
                process.kill()
