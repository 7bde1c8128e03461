"""A small image in a registry."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

from common.programs import require_program


def push(address: str, folder: Path, content: str) -> str:
    """Its reference, by digest."""
    (folder / "file").write_text(content)
    with tarfile.open(folder / "layer.tar", "w") as layer:
        layer.add(folder / "file", "file")
    tag = f"{address}/kiln:{content.lower().replace('_', '-')[:40]}"
    options = ["--insecure", "--oci-empty-base", "--new_layer", str(folder / "layer.tar")]
    command = [str(require_program("crane")), "append", *options, "--new_tag", tag]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()
