"""Reproducible bytecode that Python uses without checking the source's modification time.

An image's root is read-only, so without it every start would compile everything again.
"""

from __future__ import annotations

import importlib.util
import marshal
import sys
import warnings
from pathlib import PurePosixPath

_HASH_BASED_UNCHECKED = 0b01  # PEP 552


def cached(path: str) -> str:
    """The path at which Python 3.11 looks for the bytecode of ``path``."""
    source = PurePosixPath(path)
    return str(source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc")


def compiled(source: bytes, path: str) -> bytes | None:
    """The content of the bytecode file, or None for sources that this version cannot compile.

    Args:
        source: the module.
        path: its path in the image, which tracebacks show.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about third-party code
            code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError):
        return None
    flags = _HASH_BASED_UNCHECKED.to_bytes(4, "little")
    header = importlib.util.MAGIC_NUMBER + flags + importlib.util.source_hash(source)
    return header + marshal.dumps(code)
