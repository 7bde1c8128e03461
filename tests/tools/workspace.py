"""A clone's wrapper on a machine that has what a test gives it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tools.provision import wrapper

ROOT = Path(wrapper.__file__).absolute().parents[2]
VERSION = wrapper.version()
PATH = os.environ["PATH"]
FAKE_BAZEL = """#!/bin/sh
if [ "$*" = --version ]; then echo "bazel {version}"; exit 0; fi
echo "{name}"
for argument; do echo "<$argument>"; done
echo "python=$KILN_PYTHON"
echo "path=$PATH"
exit 7
"""


class Workspace:
    """A clone's wrapper, with a PATH of its own that has nothing but what a test puts there."""

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self.root = folder / "workspace"
        self.bin = folder / "bin"
        self.cache = folder / "cache"
        self.home = folder
        self.limit_s = wrapper.PROBE_TIMEOUT_S / 2  # a loop of probes would end only after it
        (self.root / "tools/offline").mkdir(parents=True)
        self.bin.mkdir()
        shutil.copy(ROOT / ".bazelversion", self.root)
        shutil.copy(ROOT / "tools/bazel", self.root / "tools")
        shutil.copytree(ROOT / "tools/bazelrc", self.root / "tools/bazelrc")
        copied = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "tools/provision", self.root / "tools/provision", ignore=copied)
        self.script("python3", f'#!/bin/sh\nexec "{python}" "$@"\n')
        self.program("readlink")
        self.program("sh")

    def program(self, name: str) -> None:
        found = shutil.which(name, path=PATH)
        assert found, name
        (self.bin / name).symlink_to(found)

    def script(self, name: str, text: str, folder: Path | None = None) -> Path:
        path = (folder or self.bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def fake(self, name: str, version: str = VERSION, folder: Path | None = None) -> Path:
        return self.script(name, FAKE_BAZEL.format(name=f"this is {name}", version=version), folder)

    def provisioned(self) -> Path:
        prefix = self.cache / "bazel" / f"{VERSION}-{wrapper.recipe_digest()}"
        text = FAKE_BAZEL.format(name="this is provisioned", version=VERSION)
        return self.script("bazel", text, prefix / "usr/bin")

    def run(self, *arguments: str, program: str = "", **variables: str) -> tuple[int, str, str]:
        environment = {
            "PATH": str(self.bin),
            "HOME": str(self.home),
            "KILN_CACHE": str(self.cache),
            **variables,
        }
        done = subprocess.run(
            [program or str(self.root / "tools/bazel"), *arguments],
            env=environment,
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=self.limit_s,
        )
        return done.returncode, done.stdout, done.stderr
