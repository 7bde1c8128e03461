"""Prerequisites of torch.compile outside Python: a C++ compiler and header files."""

import os
import shutil
import sysconfig
from pathlib import Path

import torch


def uncompilable() -> str:
    """Why torch.compile cannot work here, or an empty text."""
    compiler = os.environ.get("CXX") or "g++"
    if not (shutil.which(compiler) or shutil.which("clang++")):
        return "skipped: torch.compile needs a C++ compiler (install g++, or set CXX)"
    for needed in (_headers(), Path(sysconfig.get_path("include"), "Python.h")):
        if not needed.exists():
            return f"skipped: torch.compile needs {needed.name}, which this installation leaves out"
    return ""


def compiler_environment() -> dict[str, str]:
    """Variables by which a child's compiler finds PyTorch's headers where PyTorch does not look."""
    headers = _headers()
    if headers.parent == Path(torch.__file__).parent:
        return {}
    folders = (headers, headers / "torch/csrc/api/include")
    given = os.environ.get("CPLUS_INCLUDE_PATH", "")
    return {"CPLUS_INCLUDE_PATH": os.pathsep.join([*map(str, folders), *filter(None, [given])])}


def _headers() -> Path:
    """Beside the module, or beside the file that it is a symbolic link to, as Bazel has them."""
    module = Path(torch.__file__)
    beside = module.parent / "include"
    return beside if beside.exists() else module.resolve().parent / "include"
