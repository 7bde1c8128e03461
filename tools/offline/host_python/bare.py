"""Print the path of a Python 3.11 that sees of the host the standard library alone.

It is a virtual environment without packages, machine-wide so that every clone's actions are alike.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tools.provision.cache import cache_root, lock, staged

SUPPORTED = (3, 11)


def bare_python(base: Path, cache: Path) -> Path:
    """The interpreter of an empty virtual environment over ``base``, made once per machine."""
    key = hashlib.sha256(f"{base} {sys.version}".encode()).hexdigest()[:8]
    folder = cache / "python" / f"{'.'.join(map(str, sys.version_info[:3]))}-{key}"
    with lock(cache / "locks" / f"python-{folder.name}", "making the Python environment"):
        if not folder.is_dir():
            with staged(folder) as aside:
                (aside / "bin").mkdir()
                for name in ("python", "python3", "python3.11"):
                    (aside / "bin" / name).symlink_to(base)
                (aside / "pyvenv.cfg").write_text(
                    f"home = {base.parent}\ninclude-system-site-packages = false\n"
                )
    return folder / "bin" / "python3"


def main() -> int:
    if sys.version_info[:2] != SUPPORTED:
        print(f"{sys.executable} is Python {sys.version}, expected 3.11", file=sys.stderr)
        return 1
    base = Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))
    print(bare_python(base, cache_root()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
