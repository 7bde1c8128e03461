"""Make a base image of unpacked Debian packages: Python, certificates, an unprivileged user.

It has no shell and no package manager; its paths and users are those of distroless.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from common.oci import Entry, add_layer, empty_image, with_parents, write_image, write_layer
from tools.offline.oci_layout.image import configured

NONROOT = 65532
PYTHON = "usr/bin/python3.11"
PACKAGE_RECORDS = "var/lib/dpkg/status.d"
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
    "etc/passwd": "root:x:0:0:root:/root:/sbin/nologin\n"  # pragma: allowlist secret: no password
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="unpacked packages")
    parser.add_argument("--lock", type=Path, required=True, help="which packages those are")
    parser.add_argument("--output", type=Path, required=True, help="layout folder to write")
    options = parser.parse_args()
    layer = options.root.parent / "layer.tar.gz"
    debs = json.loads(options.lock.read_bytes())["debs"]
    write_layer(with_parents([*entries(options.root), *package_records(debs)]), layer)
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
    return with_parents(found.values())


def package_records(debs: Sequence[Mapping[str, Any]]) -> Iterator[Entry]:
    """What scanners and bills of materials read: a file per package, where distroless has them."""
    for deb in debs:
        fields = {
            "Package": deb["package"],
            "Version": deb["version"],
            "Architecture": deb["path"].rpartition("_")[2].removesuffix(".deb"),
            "Filename": deb["path"],
            "Size": deb["size"],
            "SHA256": deb["sha256"],
        }
        text = "".join(f"{name}: {value}\n" for name, value in fields.items())
        yield Entry(f"{PACKAGE_RECORDS}/{deb['package']}", data=text.encode())


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


if __name__ == "__main__":
    sys.exit(main())
