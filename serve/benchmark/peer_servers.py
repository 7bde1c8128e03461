"""What people would use instead, from packages that are installed for the benchmark alone."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from serve.benchmark.processes import Candidate
from tools.wheel_program import wheel_program

_FOLDER = Path(__file__).with_name("peers")
_REQUIREMENTS = _FOLDER / "requirements.txt"


class PeersMissing(Exception):
    """Their packages could not be installed; the message says why."""


def peers(model: Path, workers: int, ports: Callable[[], int]) -> list[tuple[Candidate, int]]:
    """FastAPI, LitServe and BentoML around the same ONNX file, with as many processes.

    Raises:
        PeersMissing: there is no network, or no uv.
    """
    packages = _installed()
    candidates = []
    for name, command in _commands(workers).items():
        port = ports()
        environment = {
            "PATH": f"{packages / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            "HOME": str(packages),  # BentoML and LitServe write there
            "PYTHONPATH": f"{packages}:{_FOLDER}",
            "PEER_MODEL": str(model.absolute()),
            "PEER_PORT": str(port),
            "PEER_WORKERS": str(workers),
            "BENTOML_DO_NOT_TRACK": "True",
        }
        arguments = [word.replace("PORT", str(port)) for word in command]
        command_line = [sys.executable, "-s", "-m", *arguments]
        candidates.append((Candidate(name, command_line, environment, _FOLDER), port))
    return candidates


def _commands(workers: int) -> dict[str, list[str]]:
    uvicorn = ["uvicorn", "fastapi_app:app", "--no-access-log", "--log-level", "error"]
    return {
        "FastAPI": [*uvicorn, "--port", "PORT", "--workers", str(workers)],
        "LitServe": ["litserve_app"],
        "BentoML": ["bentoml", "serve", "bentoml_app:Classifier", "--port", "PORT"],
    }


def _installed() -> Path:
    """The folder of their packages, installed once for each list of requirements."""
    cache = Path(os.environ.get("KILN_CACHE") or Path.home() / ".cache" / "kiln")
    digest = hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()[:12]
    folder = cache / "peers" / digest
    if (folder / ".complete").exists():
        return folder
    sys.stderr.write("kiln: installing the peers' packages\n")
    command = [str(wheel_program("uv")), "pip", "install", "--quiet", "--python", sys.executable]
    done = subprocess.run(
        [*command, "--target", str(folder), "--requirements", str(_REQUIREMENTS)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PeersMissing(f"the peers could not be installed:\n{done.stderr.strip()}")
    (folder / ".complete").touch()
    return folder
