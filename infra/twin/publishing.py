"""Images into the registry: the layers to the real one on this machine, the manifest to ECR.

moto's ECR keeps manifests and no layers. Pushed as by `//serve:push_image`: with crane, by digest.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from infra.twin.image.registry import Registry
from tools.debian.program import find_program
from tools.image.layout import manifest_digest


class NotPushed(Exception):
    """The registry did not take the image; the message is crane's."""


def publish(layout: Path, registry: Registry, ecr: Any, repository: str) -> str:
    """The image's name in ECR, by digest.

    Raises:
        NotPushed: the registry did not take it.
        ProgramMissing: this machine has no crane.
    """
    digest = manifest_digest(layout)
    reference = f"{registry.address}/{repository}@{digest}"
    command = [str(find_program("crane")), "--insecure", "push", str(layout), reference]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NotPushed(f"{reference}: {done.stderr.strip()}")
    _, manifest = registry.manifest(repository, digest)
    ecr.put_image(repositoryName=repository, imageManifest=manifest.decode(), imageDigest=digest)
    (found,) = ecr.describe_repositories(repositoryNames=[repository])["repositories"]
    return f"{found['repositoryUri']}@{digest}"
