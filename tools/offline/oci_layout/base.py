"""Make a base image of unpacked Debian packages: Python, certificates, an unprivileged user.

It has no shell and no package manager; its paths and users are those of distroless.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import stat
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tools.offline.oci_layout.image import configured
from tools.offline.oci_layout.layout import add_layer, empty_image, write_image

NONROOT = 65532
PYTHON = "usr/bin/python3.11"
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"

_UNUSED = (
    "sbin/",
    "usr/lib/binfmt.d/",
    "usr/lib/x86_64-linux-gnu/gconv/",  # for iconv, which nothing here calls
    "usr/sbin/",
    "usr/share/bug/",
    "usr/share/info/",
    "usr/share/lintian/",
    "usr/share/locale/",
    "usr/share/man/",
    "usr/share/zoneinfo/posix/",
    "usr/share/zoneinfo/right/",
)
_TEXTS = {
    "etc/passwd": "root:x:0:0:root:/root:/sbin/nologin\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n"
    "nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n",
    "etc/group": "root:x:0:\nnobody:x:65534:\ntty:x:5:\nstaff:x:50:\nnonroot:x:65532:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}
_FOLDERS = {"tmp": 0o1777, "var/tmp": 0o1777, "root": 0o700, "home/nonroot": 0o700, "proc": 0o555}
_LINKS = {"usr/bin/python3": "python3.11", "usr/bin/python": "python3.11"}

SETTINGS = {
    "entrypoint": [f"/{PYTHON}"],
    "env": {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "SSL_CERT_FILE": f"/{CERTIFICATES}",
        "LANG": "C.UTF-8",
    },
    "user": str(NONROOT),
    "workdir": "/home/nonroot",
}


@dataclass(frozen=True)
class Entry:
    """One path of the image."""

    path: str
    kind: bytes
    mode: int
    data: bytes | Path = b""
    link: str = ""
    owner: int = 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="unpacked packages")
    parser.add_argument("--output", type=Path, required=True, help="layout folder to write")
    options = parser.parse_args()
    layer = options.root.parent / "layer.tar.gz"
    write_layer(entries(options.root), layer)
    image = add_layer(options.output, empty_image("linux", "amd64"), layer, "Debian packages")
    print(write_image(options.output, configured(image, SETTINGS)))
    layer.unlink()
    return 0


def entries(root: Path) -> list[Entry]:
    """Everything in the image, sorted, with every parent folder: Lambda insists on those."""
    found = {entry.path: entry for entry in _files(root)}
    if PYTHON not in found:
        raise SystemExit(f"kiln: error: the packages hold no {PYTHON}")
    for path, text in {**_TEXTS, CERTIFICATES: _certificates(root)}.items():
        found[path] = Entry(path, tarfile.REGTYPE, 0o644, text.encode())
    for path, target in _LINKS.items():
        found[path] = Entry(path, tarfile.SYMTYPE, 0o777, link=target)
    for path, mode in _FOLDERS.items():
        owner = NONROOT if path == "home/nonroot" else 0
        found[path] = Entry(path, tarfile.DIRTYPE, mode, owner=owner)
    for path in list(found):
        for parent in PurePosixPath(path).parents:
            if str(parent) != ".":
                found.setdefault(str(parent), Entry(str(parent), tarfile.DIRTYPE, 0o755))
    return [found[path] for path in sorted(found)]


def _files(root: Path) -> Iterator[Entry]:
    for folder, folders, names in os.walk(root):
        for name in sorted(names + [f for f in folders if os.path.islink(os.path.join(folder, f))]):
            full = Path(folder, name)
            path = full.relative_to(root).as_posix()
            if not _is_used(path):
                continue
            if full.is_symlink():
                yield Entry(path, tarfile.SYMTYPE, 0o777, link=os.readlink(full))
            else:
                mode = 0o755 if full.stat().st_mode & stat.S_IXUSR else 0o644
                yield Entry(path, tarfile.REGTYPE, mode, full)


def _is_used(path: str) -> bool:
    if path.startswith("usr/share/doc/"):
        return path.endswith("/copyright")
    if path.startswith(("usr/bin/", "bin/")):
        return path == PYTHON
    return not path.startswith(_UNUSED)


def _certificates(root: Path) -> str:
    """The bundle that Debian's maintainer script would make."""
    folder = root / "usr" / "share" / "ca-certificates" / "mozilla"
    return "".join(path.read_text().rstrip() + "\n" for path in sorted(folder.glob("*.crt")))


def write_layer(content: list[Entry], target: Path) -> None:
    """A gzipped tar that depends on names and bytes alone: no times, no users of this machine."""
    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for entry in content:
            info = tarfile.TarInfo(entry.path)
            info.type, info.mode, info.linkname = entry.kind, entry.mode, entry.link
            info.uid = info.gid = entry.owner
            if entry.kind == tarfile.REGTYPE:
                with _open(entry.data) as data:
                    info.size = data.seek(0, io.SEEK_END)
                    data.seek(0)
                    archive.addfile(info, data)
            else:
                archive.addfile(info)


def _open(data: bytes | Path) -> IO[bytes]:
    return data.open("rb") if isinstance(data, Path) else io.BytesIO(data)


if __name__ == "__main__":
    sys.exit(main())
