"""Compiled Python that is the same on every machine and is taken without a look at its source.

An image's root is read-only, so without it every start would compile everything anew.
"""

from __future__ import annotations

import importlib.util
import marshal
import sys
import warnings
from pathlib import PurePosixPath

_HASH_BASED_UNCHECKED = 0b01  # PEP 552


def cached(path: str) -> str:
    """Where Python 3.11 looks for the compiled form of ``path``."""
    source = PurePosixPath(path)
    return str(source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc")


def compiled(source: bytes, path: str) -> bytes | None:
    """The content of the compiled file, or None for what is no Python of this version.

    Args:
        source: the module.
        path: its place in the image, which tracebacks show.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's code
            code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError):
        return None
    flags = _HASH_BASED_UNCHECKED.to_bytes(4, "little")
    header = importlib.util.MAGIC_NUMBER + flags + importlib.util.source_hash(source)
    return header + marshal.dumps(code)
