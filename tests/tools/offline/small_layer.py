"""Write a layer of one file."""

from __future__ import annotations

import io
import sys
import tarfile

with tarfile.open(sys.argv[1], "w") as layer:
    info = tarfile.TarInfo("hello.txt")
    info.size = 5
    layer.addfile(info, io.BytesIO(b"hello"))
