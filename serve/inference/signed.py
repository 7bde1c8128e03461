"""Reads a model file, verifying its signature where KILN_MODEL_KEY requires one."""

from pathlib import Path

from common.files import user_path


def read_bytes(path: Path, key: str = "") -> bytes:
    """Reads the file and verifies its signature.

    Args:
        key: a public key in PEM, or its path; empty turns verification off.

    Raises:
        OSError: it cannot be read.
        SignatureError: it is not signed with that key.
    """
    if not key:
        return path.read_bytes()
    from common.model.signature import read_verified  # imports ctypes: deferred for cold starts

    return read_verified(path, key if "-----BEGIN" in key else str(user_path(key)))
