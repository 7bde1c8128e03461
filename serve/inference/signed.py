"""Reads a model's file, once its signature is verified where KILN_MODEL_KEY asks for one."""

from pathlib import Path

from common.files import user_path


def read_bytes(path: Path, key: str = "") -> bytes:
    """The file, verified.

    Args:
        key: a public key in PEM, or its path; no signature is asked for where it is empty.

    Raises:
        OSError: it cannot be read.
        SignatureError: it is not signed with that key.
    """
    if not key:
        return path.read_bytes()
    from common.model.signature import read_verified  # ctypes: a cold start does without

    return read_verified(path, key if "-----BEGIN" in key else str(user_path(key)))
