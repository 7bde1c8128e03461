"""cosign with our own keys and without a transparency log.

A transparency log proves to third parties when something was signed. Our images are private; the
key, a file or an AWS KMS key (``awskms:///alias/…``), proves who signed.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.programs import find_program
from infra.supply_chain.ecr import registry_login

_TIMEOUT_S = 120
# Debian's cosign prints a summary, then its reasons after these words.
_ERROR = "Error: "


class CosignError(Exception):
    """cosign failed; the message has its reason."""


@dataclass(frozen=True)
class Cosign:
    """The program, for one image.

    Attributes:
        reference: ``registry/path@sha256:…``.
        insecure: a registry without TLS.
    """

    reference: str
    insecure: bool = False

    def sign(self, key: str) -> None:
        """Puts a signature beside the image.

        Raises:
            CosignError: the key cannot be used, or the registry refuses the upload.
        """
        self._run(["sign", *_SIGNING, "--key", key])

    def attest(self, key: str, kind: str, predicate: Mapping[str, Any]) -> None:
        """Puts a signed statement about the image beside it.

        Args:
            kind: a predicate type as a URI, or cosign's short name for one.

        Raises:
            CosignError: as `sign`.
        """
        with tempfile.TemporaryDirectory(prefix="kiln-") as folder:
            file = Path(folder, "predicate.json")
            file.write_text(json.dumps(predicate), encoding="utf-8")
            command = ["attest", *_SIGNING, "--key", key, "--type", kind, "--predicate", str(file)]
            self._run(command)

    def verify(self, key: str) -> None:
        """Checks the signature.

        Raises:
            CosignError: the image has no signature by this key.
        """
        self._run(["verify", *_VERIFYING, "--key", key])

    def attested(self, key: str, kind: str) -> list[dict[str, Any]]:
        """The in-toto statements of a predicate type that the key's owner signed about this image.

        Raises:
            CosignError: there is none.
        """
        output = self._run(["verify-attestation", *_VERIFYING, "--key", key, "--type", kind])
        envelopes = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        return [json.loads(base64.b64decode(envelope["payload"])) for envelope in envelopes]

    def _run(self, command: Sequence[str]) -> str:
        plain = ["--allow-http-registry", "--allow-insecure-registry"] if self.insecure else []
        with registry_login(self.reference.partition("/")[0]) as variables:
            return _cosign([*command, *plain, self.reference], variables)


_SIGNING = ("--yes", "--tlog-upload=false", "--use-signing-config=false")
_VERIFYING = ("--insecure-ignore-tlog=true",)


def generate_keys(folder: Path, name: str = "cosign") -> tuple[Path, Path]:
    """Generates a key pair: private key (encrypted with ``COSIGN_PASSWORD``) and public key.

    Raises:
        CosignError: the files cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prefix = folder.absolute() / name
    _cosign(["generate-key-pair", "--output-key-prefix", str(prefix)], {})
    return prefix.with_name(f"{name}.key"), prefix.with_name(f"{name}.pub")


def _cosign(arguments: Sequence[str], variables: Mapping[str, str]) -> str:
    command = [str(find_program("cosign")), *arguments]
    with _home() as home:
        # Without a password, cosign would prompt on the terminal and hang scripts.
        environment = {"COSIGN_PASSWORD": "", **os.environ, **home, **variables}
        try:
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as exc:
            raise CosignError(f"cosign {arguments[0]} took more than {_TIMEOUT_S} s") from exc
    if done.returncode:
        raise CosignError(_reason(done.stderr))
    return done.stdout


@contextmanager
def _home() -> Iterator[dict[str, str]]:
    """cosign needs a home folder for its cache, which builds and tests may lack."""
    if os.environ.get("HOME") and os.access(os.environ["HOME"], os.W_OK):
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="kiln-") as folder:
        yield {"HOME": folder}


def _reason(text: str) -> str:
    _, found, reason = text.partition(_ERROR)
    lines = (reason if found else text).strip().splitlines()
    return lines[0] if lines else "cosign said nothing"
